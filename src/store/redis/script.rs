//! The Lua scripts, and how one is run: by its hash, or by its text if the server does not have it.
//!
//! A script is known to Redis by the hash of its text, so that the scripts of two versions of
//! Tollgate exist side by side. What they share is the data, whose format every script checks
//! first (`preamble.lua`, [`FORMAT`](super::keys::FORMAT)).

use std::time::Duration;

use ::redis::{
    Cmd, ErrorKind, FromRedisValue, RedisResult, ServerErrorKind, aio::MultiplexedConnection, cmd,
};
use tokio::time::{Instant, sleep};

/// How long a call is repeated while a slot is being moved to another node, and the pause between two
/// attempts.
const MOVING: Duration = Duration::from_millis(100);
const PAUSE: Duration = Duration::from_millis(5);

/// The body of the script that decides checks. It takes `now`, in microseconds, from the text in
/// front of it: tests set it, and compare the body with the reference model.
pub const ADMIT_BODY: &str = include_str!("../scripts/admit.lua");

/// The body of the script that decides checks some of which hold, likewise.
pub const RESERVE_BODY: &str =
    concat!(include_str!("../scripts/counters.lua"), include_str!("../scripts/admit.lua"));

/// The body of the script that applies reports of usage, likewise.
pub const SETTLE_BODY: &str =
    concat!(include_str!("../scripts/counters.lua"), include_str!("../scripts/settle.lua"));

/// The body of the script that returns leased units, likewise.
pub const GIVE_BACK_BODY: &str = include_str!("../scripts/give_back.lua");

/// A script: the check of the format, the time, and a body.
macro_rules! script {
    ($file:literal) => {
        concat!(include_str!("../scripts/preamble.lua"), include_str!($file))
    };
}

/// A script that changes bans: the functions for their number are in front of its body.
macro_rules! script_of_bans {
    ($file:literal) => {
        concat!(
            include_str!("../scripts/preamble.lua"),
            include_str!("../scripts/bans.lua"),
            include_str!($file)
        )
    };
}

/// A script that holds or settles: the functions for counters are in front of its body.
macro_rules! script_of_counters {
    ($file:literal) => {
        concat!(
            include_str!("../scripts/preamble.lua"),
            include_str!("../scripts/counters.lua"),
            include_str!($file)
        )
    };
}

/// A script that changes API keys: the functions for their digests are in front of its body.
macro_rules! script_of_keys {
    ($file:literal) => {
        concat!(
            include_str!("../scripts/preamble.lua"),
            include_str!("../scripts/keys.lua"),
            include_str!($file)
        )
    };
}

/// All scripts of the store.
pub(super) struct Scripts {
    /// Decides checks none of which holds.
    pub(super) admit: Script,
    /// Decides checks some of which hold.
    pub(super) reserve: Script,
    pub(super) settle: Script,
    pub(super) give_back: Script,
    pub(super) revoke: Script,
    pub(super) reinstate: Script,
    pub(super) ban: Script,
    pub(super) ban_automatically: Script,
    pub(super) lift: Script,
    pub(super) page: Script,
    pub(super) write_key: Script,
    pub(super) remove_key: Script,
    pub(super) use_keys: Script,
    pub(super) ledger_claim: Script,
    pub(super) ledger_append: Script,
    pub(super) ledger_adopt: Script,
    pub(super) ledger_set_aside: Script,
    pub(super) ledger_persons: Script,
    pub(super) ledger_erase: Script,
    pub(super) ledger_mark: Script,
}

impl Scripts {
    pub(super) fn new() -> Self {
        Self {
            admit: Script::new(script!("../scripts/admit.lua")),
            reserve: Script::new(script_of_counters!("../scripts/admit.lua")),
            settle: Script::new(script_of_counters!("../scripts/settle.lua")),
            give_back: Script::new(script!("../scripts/give_back.lua")),
            revoke: Script::new(script!("../scripts/revoke.lua")),
            reinstate: Script::new(script!("../scripts/reinstate.lua")),
            ban: Script::new(script_of_bans!("../scripts/ban.lua")),
            ban_automatically: Script::new(script_of_bans!("../scripts/ban_automatically.lua")),
            lift: Script::new(script_of_bans!("../scripts/lift.lua")),
            page: Script::new(script!("../scripts/page.lua")),
            write_key: Script::new(script_of_keys!("../scripts/write_key.lua")),
            remove_key: Script::new(script_of_keys!("../scripts/remove_key.lua")),
            use_keys: Script::new(script!("../scripts/use_keys.lua")),
            ledger_claim: Script::new(script!("../scripts/ledger_claim.lua")),
            ledger_append: Script::new(script!("../scripts/ledger_append.lua")),
            ledger_adopt: Script::new(script!("../scripts/ledger_adopt.lua")),
            ledger_set_aside: Script::new(script!("../scripts/ledger_set_aside.lua")),
            ledger_erase: Script::new(script!("../scripts/ledger_erase.lua")),
            ledger_persons: Script::new(script!("../scripts/ledger_persons.lua")),
            ledger_mark: Script::new(script!("../scripts/ledger_mark.lua")),
        }
    }
}

/// The text of a script and its hash.
pub(super) struct Script {
    text: &'static str,
    sha1: String,
}

impl Script {
    fn new(text: &'static str) -> Self {
        Self { text, sha1: ::redis::Script::new(text).get_hash().to_owned() }
    }

    /// Runs the script. `fill` writes the keys, of which there are `keys` and the last is the
    /// format marker, and then the arguments.
    ///
    /// A server that was restarted, flushed or newly promoted does not know the hash, and has then
    /// changed nothing, so that the text can be sent. SCRIPT LOAD would be one more call that may
    /// fail.
    pub(super) async fn run<T: FromRedisValue>(
        &self,
        connection: &mut MultiplexedConnection,
        keys: usize,
        fill: impl Fn(&mut Cmd) + Send + Sync,
    ) -> RedisResult<T> {
        // The longest key is that of a revocation, 165 bytes. One allocation of the right size
        // costs less than a vector that grows.
        let mut call = Cmd::with_capacity(keys + 8, 192 * (keys + 1));
        call.arg("EVALSHA").arg(&self.sha1).arg(keys);
        fill(&mut call);
        let started = Instant::now();
        loop {
            match call.query_async(connection).await {
                Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                    call = cmd("EVAL");
                    call.arg(self.text).arg(keys);
                    fill(&mut call);
                }
                // While a slot is being moved, neither node runs a script for keys some of which are
                // not there, as those that do not exist. Nothing was changed.
                Err(error)
                    if matches!(error.code(), Some("TRYAGAIN" | "ASK"))
                        && started.elapsed() < MOVING =>
                {
                    sleep(PAUSE).await;
                }
                answer => return answer,
            }
        }
    }
}
