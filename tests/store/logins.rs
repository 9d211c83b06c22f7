//! The words for a login that a server does not accept. None of them contains what was sent.

use tokio_util::sync::CancellationToken;
use tollgate::store::{Redis, RedisConfig};
use tollgate_core::secret::{Secret, SecretSource};

use super::{
    redis_server::{self, section},
    requests::until,
};

const PASSWORD: &str = "hunter2-hunter2";

#[tokio::test]
async fn a_refused_login_shows_no_password() {
    for (options, username, expected) in [
        // Such a server answers with the arguments of the command.
        (&["--rename-command", "AUTH", ""][..], Some("u"), "it has no command AUTH"),
        (&["--requirepass", "x", "--rename-command", "AUTH", ""], None, "it has no command AUTH"),
        (&[], None, "it has no password"),
        (&["--requirepass", "x"], None, "the username or the password is wrong (WRONGPASS)"),
        (&["--requirepass", "x"], Some("u"), "the username or the password is wrong (WRONGPASS)"),
    ] {
        let server = redis_server::start(options);
        let config = RedisConfig {
            username: username.map(str::to_owned),
            password: Some(SecretSource::Inline(Secret::new(PASSWORD))),
            ..section(&server.unix())
        };
        let store = Redis::open(&config, CancellationToken::new()).unwrap();
        let mut last = String::new();
        until("a refusal", async || {
            last = tollgate::store::Store::status(&store).last_error.unwrap_or_default();
            !last.is_empty()
        })
        .await;
        assert!(last.contains(expected), "{options:?}: {last}");
        assert!(!last.contains("hunter2"), "{last}");
    }
}
