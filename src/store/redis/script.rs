//! The scripts, and how one is run: by its hash, and by its text where the server does not have it.

use ::redis::{
    Cmd, ErrorKind, FromRedisValue, RedisResult, ServerErrorKind, aio::MultiplexedConnection, cmd,
};

/// The body of the script of checks. It takes `now`, in microseconds, from the text in front of it: tests set it, and hold the
/// body against the reference model.
pub const ADMIT_BODY: &str = include_str!("../admit.lua");

/// The body of the script that gives units back, likewise.
pub const GIVE_BACK_BODY: &str = include_str!("../give_back.lua");

/// Time comes from Redis, so that replicas with different clocks count alike.
macro_rules! with_time {
    ($file:literal) => {
        concat!(
            "local time = redis.call('TIME')\nlocal now = time[1] * 1000000 + time[2]\n",
            include_str!($file)
        )
    };
}

/// All scripts.
pub(super) struct Scripts {
    pub(super) admit: Script,
    pub(super) give_back: Script,
    pub(super) revoke: Script,
    pub(super) reinstate: Script,
}

impl Scripts {
    pub(super) fn new() -> Self {
        Self {
            admit: Script::new(with_time!("../admit.lua")),
            give_back: Script::new(with_time!("../give_back.lua")),
            revoke: Script::new(include_str!("../revoke.lua")),
            reinstate: Script::new(include_str!("../reinstate.lua")),
        }
    }
}

/// A script and its hash.
pub(super) struct Script {
    text: &'static str,
    sha1: String,
}

impl Script {
    fn new(text: &'static str) -> Self {
        Self { text, sha1: ::redis::Script::new(text).get_hash().to_owned() }
    }

    /// Runs it; `fill` writes the `keys` keys and then the arguments.
    ///
    /// A server that was restarted, flushed or newly promoted does not know the hash, and has then done nothing, so the text can
    /// be sent. Not SCRIPT LOAD: that would be one more call that may fail.
    pub(super) async fn run<T: FromRedisValue>(
        &self,
        connection: &mut MultiplexedConnection,
        keys: usize,
        fill: impl Fn(&mut Cmd) + Send + Sync,
    ) -> RedisResult<T> {
        // A key of a revocation is the longest we have: 165 bytes. One vector, made once, is cheaper than one that grows.
        let mut call = Cmd::with_capacity(keys + 8, 192 * (keys + 1));
        call.arg("EVALSHA").arg(&self.sha1).arg(keys);
        fill(&mut call);
        match call.query_async(connection).await {
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                let mut call = cmd("EVAL");
                call.arg(self.text).arg(keys);
                fill(&mut call);
                call.query_async(connection).await
            }
            answer => answer,
        }
    }
}
