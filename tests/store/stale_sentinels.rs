//! Sentinels that answer late, not at all, or with a primary that was replaced: scripted ones, in front of
//! real servers.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_util::sync::{CancellationToken, DropGuard};
use tollgate::store::{Redis, Store};

use super::{
    redis_server::{self, Server},
    requests::{charge, charging, until},
};

/// What a Sentinel answers.
#[derive(Clone, Copy)]
struct Answers {
    primary: u16,
    epoch: u64,
    after: Duration,
    is_silent: bool,
    /// The number of answers so far.
    given: u64,
}

/// A scripted Sentinel, ended when the value is dropped.
struct Sentinel {
    port: u16,
    answers: Arc<Mutex<Answers>>,
    _end: DropGuard,
}

impl Sentinel {
    async fn start(primary: &Server, epoch: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let answers = Answers {
            primary: primary.port(),
            epoch,
            after: Duration::ZERO,
            is_silent: false,
            given: 0,
        };
        let (answers, end) = (Arc::new(Mutex::new(answers)), CancellationToken::new());
        let (shared, ended) = (Arc::clone(&answers), end.clone());
        tokio::spawn(end.clone().run_until_cancelled_owned(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let serves = serve(stream, Arc::clone(&shared));
                tokio::spawn(ended.clone().run_until_cancelled_owned(serves));
            }
        }));
        Self { port, answers, _end: end.drop_guard() }
    }

    fn change(&self, change: impl FnOnce(&mut Answers)) {
        change(&mut self.answers.lock().unwrap());
    }

    fn names(&self, primary: &Server, epoch: u64) {
        self.change(|answers| (answers.primary, answers.epoch) = (primary.port(), epoch));
    }

    fn given(&self) -> u64 {
        self.answers.lock().unwrap().given
    }
}

async fn serve(mut stream: TcpStream, answers: Arc<Mutex<Answers>>) {
    let (mut read, mut buffer) = (String::new(), [0; 1024]);
    while let Ok(length @ 1..) = stream.read(&mut buffer).await {
        read.push_str(std::str::from_utf8(&buffer[..length]).unwrap());
        while let Some((words, rest)) = command(&read) {
            read = rest;
            let now = *answers.lock().unwrap();
            if now.is_silent {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(now.after).await;
            answers.lock().unwrap().given += 1;
            let values = if words[1] == "MASTER" {
                ["config-epoch".to_owned(), now.epoch.to_string()]
            } else {
                ["127.0.0.1".to_owned(), now.primary.to_string()]
            };
            let bulk = values.map(|value| format!("${}\r\n{value}\r\n", value.len())).concat();
            if stream.write_all(format!("*2\r\n{bulk}").as_bytes()).await.is_err() {
                return;
            }
        }
    }
}

/// The words of the first command of a text, and the text after it; `None` before it is complete.
fn command(text: &str) -> Option<(Vec<String>, String)> {
    let mut lines = text.split_inclusive("\r\n");
    let mut next = || lines.next().filter(|line| line.ends_with("\r\n"));
    let count: usize = next()?.trim().strip_prefix('*')?.parse().unwrap();
    let mut words = Vec::new();
    for _ in 0..count {
        next()?;
        words.push(next()?.trim().to_owned());
    }
    Some((words, lines.collect()))
}

fn open(sentinels: &[Sentinel]) -> Redis {
    let hosts: Vec<String> =
        sentinels.iter().map(|sentinel| format!("127.0.0.1:{}", sentinel.port)).collect();
    redis_server::open(&format!("redis+sentinel://{}/main", hosts.join(",")))
}

async fn until_on(store: &Redis, server: &Server) {
    let expected = format!("127.0.0.1:{}", server.port());
    until("the server in use", async || {
        let _ = store.admit(&charging(&[charge("k", 1, 1)])).await;
        let node = store.status().nodes.remove(0);
        node.up && node.node.as_deref() == Some(&expected)
    })
    .await;
}

#[tokio::test]
async fn a_primary_that_was_replaced_is_not_used_again() {
    let (old, mut new) = (redis_server::start(&[]), redis_server::start(&[]));
    let mut sentinels = Vec::new();
    for _ in 0..3 {
        sentinels.push(Sentinel::start(&old, 1).await);
    }
    let store = open(&sentinels);
    until_on(&store, &old).await;

    // One of three knows of a failover, and is the slowest to answer.
    sentinels[2].change(|answers| answers.after = Duration::from_millis(50));
    sentinels[2].names(&new, 2);
    until_on(&store, &new).await;
    let (made, given) = (store.status().connections, sentinels[0].given());
    until("more rounds", async || sentinels[0].given() >= given + 6).await;
    until_on(&store, &new).await;
    assert_eq!(store.status().connections, made, "the other two are not followed");

    // Those who know of it do not answer, and the new primary is lost.
    for sentinel in &sentinels[1..] {
        sentinel.change(|answers| answers.is_silent = true);
    }
    new.kill();
    until("a refusal", async || {
        store.status().last_error.is_some_and(|error| error.contains("which was replaced"))
    })
    .await;
    assert_eq!(store.status().connections, made);
    new.restart();
    sentinels[2].change(|answers| answers.is_silent = false);
    until_on(&store, &new).await;

    // Sentinels that were set up again begin with an earlier epoch.
    for sentinel in &sentinels[..2] {
        sentinel.change(|answers| answers.is_silent = false);
    }
    for sentinel in &sentinels {
        sentinel.names(&old, 0);
    }
    new.kill();
    until_on(&store, &old).await;
}
