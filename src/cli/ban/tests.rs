use clap::Parser;
use serde_json::Value;

use tollgate_core::ban::BanDurations;

use super::*;
use crate::{
    admin::tests::Kept,
    cli::revoke::tests::Served,
    store::{AutomaticBan, Store as _},
};

#[derive(Debug, Parser)]
struct Command {
    #[command(flatten)]
    ban: BanArgs,
}

/// Runs a command line; `redis://there` is a store in memory. What it printed, and whether it
/// exited with 0.
async fn run_line(line: &[&str], kept: &Kept) -> anyhow::Result<(String, bool)> {
    let Command { ban } = Command::try_parse_from([&["ban"], line].concat())?;
    let mut out = Vec::new();
    let connect = async |url: Secret| {
        anyhow::ensure!(url.expose() == b"redis://there", "no store there");
        Ok(kept.clone())
    };
    let code = run(ban, &mut out, connect).await?;
    Ok((String::from_utf8(out).unwrap(), format!("{code:?}") == format!("{:?}", ExitCode::SUCCESS)))
}

/// Runs a command line in the store itself and through the admin API of a server.
async fn run_both(served: &Served, line: &[&str]) -> [(String, bool); 2] {
    let (url, token) = (format!("http://{}", served.address), served.file("token"));
    let store = [line, &["--redis", "redis://there"]].concat();
    let admin = [line, &["--admin", &url, "--token-file", &token]].concat();
    let separate = Kept::default();
    [run_line(&store, &separate).await.unwrap(), run_line(&admin, &served.kept).await.unwrap()]
}

#[tokio::test]
async fn both_places_print_the_same() {
    let served = Served::new().await;
    for (line, text, good) in [
        (&["list"][..], "nothing is banned\n", true),
        (&["check", "--address", "192.0.2.7"], "not banned\n", false),
        (&["lift", "--tenant", "acme"], "there is no such ban of a tenant\n", false),
        (
            &["add", "--network", "192.0.2.0/24", "--until", "2100000000"],
            "banned network 192.0.2.0/24 until 2036-07-18T13:20:00.000000Z\n",
            true,
        ),
        (
            &["add", "--network", "2001:DB8::1"],
            "banned network 2001:db8::1/128 until the ban is lifted\n",
            true,
        ),
    ] {
        for (printed, was_good) in run_both(&served, line).await {
            assert_eq!((printed.as_str(), was_good), (text, good), "{line:?}");
        }
    }
}

#[tokio::test]
async fn banned_found_listed_and_lifted_through_the_admin_api() {
    let served = Served::new().await;
    let (url, token) = (format!("http://{}", served.address), served.file("token"));
    let run = async |line: &[&str]| {
        let line = [line, &["--admin", &url, "--token-file", &token]].concat();
        run_line(&line, &served.kept).await.unwrap()
    };
    let alice = ["--subject", "alice", "--issuer", "https://a"];
    let (text, good) =
        run(&[&["add", "--for", "2h", "--reason", "shares her token"], &alice[..]].concat()).await;
    assert!(good && text.starts_with("banned subject:") && text.contains(" until 2"), "{text}");
    for tenant in ["a", "b", "c"] {
        assert!(run(&["add", "--tenant", tenant]).await.1);
    }
    assert!(run(&["add", "--network", "192.0.2.0/24", "--reason", "scraper"]).await.1);
    let (text, _) = run(&["list", "--output", "json"]).await;
    let list: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(list["bans"].as_array().unwrap().len(), 5, "every page: {text}");
    let (text, _) = run(&["list"]).await;
    assert!(
        text.contains("network 192.0.2.0/24\n  since ") && text.contains("\n  scraper\n"),
        "{text}"
    );
    assert!(!text.contains("alice"), "{text}");

    let (text, good) = run(&["check", "--address", "192.0.2.7"]).await;
    assert!(good && text.contains("network 192.0.2.0/24"), "{text}");
    let (text, good) = run(&[&["check"], &alice[..], &["--output", "json"]].concat()).await;
    let json: Value = serde_json::from_str(&text).unwrap();
    assert!(
        good && json["banned"] == true && json["bans"][0]["reason"] == "shares her token",
        "{text}"
    );
    assert_eq!(run(&["check", "--network", "192.0.2.0/25"]).await, ("not banned\n".into(), false));

    assert_eq!(
        run(&[&["lift"], &alice[..]].concat()).await,
        ("lifted the ban of the subject\n".into(), true)
    );
    let (text, good) = run(&[&["lift"], &alice[..], &["--output", "json"]].concat()).await;
    let json: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&json["lifted"], good), (&false.into(), false));
}

#[tokio::test]
async fn an_automatic_ban_is_listed_found_and_lifted_as_one_of_its_network() {
    let served = Served::new().await;
    let durations = BanDurations {
        first: Span::from_secs(300),
        longest: Span::from_secs(3600),
        remember: Span::from_secs(3600),
    };
    let network = parse_network("192.0.2.7").unwrap();
    let reason = "automatic: 120 failed credentials in 42 s".to_owned();
    let ban = AutomaticBan { network, durations, reason };
    served.kept.bans.begin_ban(&ban).await.unwrap();
    let (url, token) = (format!("http://{}", served.address), served.file("token"));
    let run = async |line: &[&str]| {
        let line = [line, &["--admin", &url, "--token-file", &token]].concat();
        run_line(&line, &served.kept).await.unwrap()
    };
    for line in
        [&["list"][..], &["check", "--address", "192.0.2.7"], &["check", "--network", "192.0.2.7"]]
    {
        let (text, good) = run(line).await;
        assert!(good && text.starts_with("network 192.0.2.7/32 (automatic)\n  since "), "{text}");
        assert!(text.ends_with("\n  automatic: 120 failed credentials in 42 s\n"), "{text}");
    }
    let (text, _) = run(&["list", "--output", "json"]).await;
    let list: Value = serde_json::from_str(&text).unwrap();
    let ban = &list["bans"][0];
    assert_eq!(
        (&ban["kind"], &ban["network"]),
        (&"automatic_network".into(), &"192.0.2.7/32".into())
    );
    assert_eq!(ban["until"].as_u64().unwrap() - ban["since"].as_u64().unwrap(), 300);
    let lifted = ("lifted the ban of the network\n".to_owned(), true);
    assert_eq!(run(&["lift", "--network", "192.0.2.7"]).await, lifted);
    assert_eq!(run(&["list"]).await, ("nothing is banned\n".into(), true));
}

#[test]
fn the_command_line_names_one_thing_and_one_place() {
    let redis = ["--redis", "redis://there"];
    for (line, good) in [
        (&["add", "--subject", "a", "--issuer", "i"][..], true),
        (&["add", "--tenant", "a", "--for", "2h"], true),
        (&["add", "--network", "10.0.0.0/8", "--until", "2026-01-02T03:04:05Z"], true),
        (&["add", "--network", "::ffff:10.0.0.1"], true),
        (&["add", "--key", "7Jk2mN4pQ8rT"], true),
        (&["check", "--key", "7Jk2mN4pQ8rT"], true),
        (&["add", "--key", "short"], false),
        (&["add", "--key", "7Jk2mN4pQ8rT", "--issuer", "i"], false),
        (&["list"], true),
        (&["check", "--address", "::1"], true),
        (&["check", "--client", "a", "--issuer", ""], true),
        (&["lift", "--network", "10.0.0.0/8"], true),
        (&["add"], false),
        (&["add", "--subject", "a"], false),
        (&["add", "--tenant", "a", "--issuer", "i"], false),
        (&["add", "--network", "10.0.0.0/8", "--issuer", "i"], false),
        (&["add", "--tenant", "a", "--network", "10.0.0.0/8"], false),
        (&["add", "--network", "0.0.0.0/0"], false),
        (&["add", "--network", "::/0"], false),
        (&["add", "--network", "10.0.0.1/8"], false),
        (&["add", "--network", "10.0.0.0/33"], false),
        (&["add", "--network", "host"], false),
        (&["add", "--address", "10.0.0.1"], false),
        (&["add", "--tenant", "a", "--for", "1h", "--until", "9"], false),
        (&["add", "--tenant", "a", "--for", "soon"], false),
        (&["add", "--tenant", "a", "--reason", ""], false),
        (&["add", "--tenant", "a", "--reason", "two\nlines"], false),
        (&["lift", "--tenant", "a", "--reason", "x"], false),
        (&["check"], false),
        (&["check", "--address", "10.0.0.0/8"], false),
        (&["check", "--address", "10.0.0.1", "--issuer", "i"], false),
        (&["list", "--admin", "http://127.0.0.1:1"], false),
    ] {
        let parsed = Command::try_parse_from([&["ban"], line, &redis].concat());
        let error = parsed.as_ref().map(drop).map_err(ToString::to_string);
        assert_eq!(parsed.is_ok(), good, "{line:?}: {error:?}");
    }
    assert!(Command::try_parse_from(["ban", "list"]).is_err(), "neither place");
}

#[tokio::test]
async fn an_end_in_the_past_is_refused() {
    for end in [&["--until", "1"][..], &["--for", "0s"], &["--for", "3654d"]] {
        let line = [&["add", "--tenant", "a", "--redis", "redis://there"], end].concat();
        let error = run_line(&line, &Kept::default()).await.unwrap_err();
        assert!(error.to_string().contains("a ban ends after"), "{end:?}: {error}");
    }
}

#[tokio::test]
async fn a_reason_from_elsewhere_does_not_reach_the_terminal_as_it_is() {
    let kept = Kept::default();
    let hidden =
        NewBan::new(Target::Tenant { tenant: "a".into() }, now(), None, Some("a\u{200b}b".into()));
    kept.ban(&hidden.unwrap()).await.unwrap();
    for output in ["text", "json"] {
        let line = ["list", "--redis", "redis://there", "--output", output];
        let (text, _) = run_line(&line, &kept).await.unwrap();
        assert!(!text.contains('\u{200b}') && text.contains("200b"), "{text}");
    }
}

#[tokio::test]
async fn offenders_are_listed_by_the_admin_api() {
    let served = Served::new().await;
    let (url, token) = (format!("http://{}", served.address), served.file("token"));
    let run = async |more: &[&str]| {
        let line = ["offenders", "--admin", &url, "--token-file", &token];
        run_line(&[&line[..], more].concat(), &served.kept).await
    };
    let (text, good) = run(&[]).await.unwrap();
    let expected = "\
networks, by failed credentials in 60 s (120 ban one):
       900  192.0.2.7/32, 450 of them refused unverified, banned until 2036-07-18T13:20:00.000000Z (automatic)
       100  2001:db8::/64, 50 of them refused unverified
subjects, by denied requests in 60 s:
       500  subject \"alice\", issuer \"https://a\", tenant \"acme\", last rate_limited
        40  client \"batch\\u001b[2J\", issuer \"https://a\", tenant \"beta\", last rate_limited
         3  key \"7Jk2mN4pQ8rT\", last rate_limited
";
    assert_eq!((text.as_str(), good), (expected, true));
    let (text, _) = run(&["--limit", "1", "--output", "json"]).await.unwrap();
    let json: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["subjects"]["list"].as_array().unwrap().len(), 1);
    crate::cli::printable::tests::assert_plain(&run(&["--output", "json"]).await.unwrap().0);
    assert!(run(&["--limit", "0"]).await.is_err());
    assert!(run(&["--redis", "redis://there"]).await.is_err(), "Redis has no counts");
}
