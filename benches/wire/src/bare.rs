//! The expensive parts of a check alone: a signature, a script in Redis.

use std::{hint::black_box, path::PathBuf, time::Instant};

use anyhow::{Context as _, ensure};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256,
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use clap::Args;
use redis::aio::MultiplexedConnection;
use serde_json::json;
use tokio::task::JoinSet;

use crate::{keys::Algorithm, process, tokens};

/// Verify the signatures of a file of tokens, the key parsed once.
#[derive(Debug, Args)]
pub(crate) struct Verify {
    #[arg(long)]
    keys: PathBuf,
    #[arg(long, value_enum)]
    algorithm: Algorithm,
    #[arg(long)]
    tokens: PathBuf,
}

impl Verify {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let key = self.algorithm.read_key(&self.keys)?;
        let public = key.public();
        let key = match self.algorithm {
            Algorithm::Rs256 => ParsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, public)?,
            Algorithm::Es256 => ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, public)?,
            Algorithm::EdDsa => ParsedPublicKey::new(&ED25519, public)?,
        };
        let tokens = tokens::read(&self.tokens)?;
        let parts = tokens
            .iter()
            .map(|token| {
                let (signed, signature) = token.rsplit_once('.').context("a token")?;
                Ok((signed, URL_SAFE_NO_PAD.decode(signature)?))
            })
            .collect::<anyhow::Result<Vec<_>>>()?;
        let before = process::of_this_thread()?;
        for (signed, signature) in &parts {
            black_box(key.verify_sig(black_box(signed.as_bytes()), signature))?;
        }
        #[expect(clippy::cast_precision_loss, reason = "microseconds")]
        let each = (process::of_this_thread()? - before) as f64 / 1000.0 / parts.len() as f64;
        println!("{}", json!({ "cpu_us": each, "count": parts.len() }));
        Ok(())
    }
}

/// Repeat one call with different keys, through one connection of redis-rs.
#[derive(Debug, Args)]
pub(crate) struct Evalsha {
    /// `redis+unix:///path` or `redis://host:port`.
    #[arg(long)]
    url: String,
    /// The call, as a JSON list of its words, a character for each byte, the command's name first.
    /// In keys (words that start with `{`), the last eight characters are replaced by a number that
    /// changes.
    #[arg(long)]
    call: String,
    #[arg(long, default_value_t = 64)]
    in_flight: usize,
    #[arg(long, default_value_t = 2000)]
    distinct: usize,
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// The process of Redis, whose CPU time is counted.
    #[arg(long)]
    watch: u32,
}

impl Evalsha {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(self.load())
    }

    async fn load(self) -> anyhow::Result<()> {
        let words: Vec<String> = serde_json::from_str(&self.call).context("--call")?;
        let calls: Vec<redis::Cmd> =
            (0..self.distinct).map(|number| call(&words, number)).collect();
        let calls = std::sync::Arc::new(calls);
        let client = redis::Client::open(self.url.as_str())?;
        let mut connection: MultiplexedConnection =
            client.get_multiplexed_async_connection().await?;
        let first: redis::Value =
            calls.first().context("no call")?.query_async(&mut connection).await?;
        ensure!(matches!(first, redis::Value::BulkString(_)), "the script answered {first:?}");
        let before = (process::on_core(self.watch)?, process::of_this_thread()?);
        let started = Instant::now();
        let mut tasks = JoinSet::new();
        for task in 0..self.in_flight {
            let (mut connection, calls) = (connection.clone(), std::sync::Arc::clone(&calls));
            let seconds = self.seconds;
            tasks.spawn(async move {
                let mut count = 0u32;
                let mut next = task * 31;
                while started.elapsed().as_secs_f64() < seconds {
                    next = (next + 1) % calls.len();
                    let call = calls.get(next).context("a call")?;
                    call.query_async::<redis::Value>(&mut connection).await?;
                    count += 1;
                }
                anyhow::Ok(count)
            });
        }
        let mut total = 0;
        while let Some(count) = tasks.join_next().await {
            total += count??;
        }
        let seconds = started.elapsed().as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "microseconds")]
        let each = |after: u64, before: u64| (after - before) as f64 / 1000.0 / f64::from(total);
        let redis = each(process::on_core(self.watch)?, before.0);
        let client = each(process::of_this_thread()?, before.1);
        println!(
            "{}",
            json!({
                "rps": f64::from(total) / seconds,
                "redis_cpu_us": redis,
                "client_cpu_us": client,
            })
        );
        Ok(())
    }
}

fn call(words: &[String], number: usize) -> redis::Cmd {
    let mut call = redis::Cmd::new();
    for word in words {
        match word.split_at_checked(word.len().saturating_sub(8)) {
            Some((head, _)) if word.starts_with('{') => call.arg(format!("{head}{number:08}")),
            _ => call.arg(
                word.chars().map(|byte| u32::from(byte).to_le_bytes()[0]).collect::<Vec<u8>>(),
            ),
        };
    }
    call
}
