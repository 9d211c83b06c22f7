//! The output of the command line: at a terminal, in a script, as JSON, and into a closed pipe.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpListener,
    path::Path,
    process::{Command, Output, Stdio},
    thread,
};

use nix::pty::openpty;
use serde_json::Value;

use crate::rig::{
    POLICY,
    http::{Answer, Reply, Server},
    tollgate::run,
};

const PRESETS: [&str; 10] = [
    "vllm",
    "sglang",
    "lmdeploy",
    "ms-swift",
    "hunyuanocr",
    "llama-cpp",
    "tgi",
    "ollama",
    "triton",
    "ray-serve",
];

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Runs a subcommand whose standard output and standard error are a terminal, and returns what was
/// written to the terminal.
fn at_a_terminal(dir: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> String {
    let terminal = openpty(None, None).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
    command
        .args(arguments)
        .current_dir(dir)
        .env("TERM", "xterm")
        .env_remove("NO_COLOR")
        .envs(variables.iter().copied());
    command.stdin(Stdio::null()).stdout(terminal.slave.try_clone().unwrap()).stderr(terminal.slave);
    let mut child = command.spawn().unwrap();
    // This copy would keep the terminal open.
    drop(command);
    let mut seen = Vec::new();
    let mut master = File::from(terminal.master);
    let mut part = [0; 4096];
    // The end of a terminal is an error (EIO) on Linux.
    while let Ok(read @ 1..) = master.read(&mut part) {
        seen.extend_from_slice(&part[..read]);
    }
    child.wait().unwrap();
    String::from_utf8_lossy(&seen).into_owned()
}

#[test]
fn init_writes_a_valid_file_for_every_preset() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let known: Value =
        serde_json::from_slice(&run(dir, &["presets", "list", "--output", "json"]).stdout).unwrap();
    let known: Vec<&str> =
        known.as_array().unwrap().iter().map(|preset| preset["name"].as_str().unwrap()).collect();
    assert_eq!(known, PRESETS);
    for preset in PRESETS {
        let file = format!("{preset}.yaml");
        let init =
            ["init", "--preset", preset, "--issuer", "https://auth.example.com", "-o", &file];
        let output = run(dir, &init);
        assert!(output.status.success(), "{preset}: {}", stderr(&output));
        assert!(
            stdout(&output).contains(&format!("tollgate serve --config {file}")),
            "{}",
            stdout(&output)
        );
        let output = run(dir, &["check-config", &file]);
        assert_eq!(stdout(&output), format!("{file}: ok\n"));
        let output = run(dir, &init);
        assert_eq!(output.status.code(), Some(2));
        assert!(stderr(&output).contains("is not overwritten"), "{}", stderr(&output));
    }
}

#[test]
fn every_failure_of_a_command_has_one_format() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    std::fs::write(
        dir.join("wrong.yaml"),
        "routes: [{ match: { paths: [health] }, public: true }]\n",
    )
    .unwrap();
    for (arguments, part) in [
        (&["check-config", "missing.yaml"][..], "cannot be read"),
        (&["explain", "--config", "wrong.yaml", "--path", "/"], "does not start with `/`"),
        (&["presets", "show", "vlm"], "known: vllm"),
        (&["token", "inspect", "@missing.txt"], "cannot read `missing.txt`"),
        (&["revoke", "list", "--redis", "redis://127.0.0.1:1"], "is not available"),
        (&["doctor", "http://127.0.0.1:1"], "cannot be reached"),
        (&["audit-upstream", "http://127.0.0.1:1", "--preset", "vllm"], "cannot be reached"),
        (&["check-config"], "required arguments were not provided"),
        (&["revoke", "add", "--tenat", "acme"], "unexpected argument"),
    ] {
        let output = run(dir, &[arguments, &["--output", "json"]].concat());
        assert_eq!(
            (output.status.code(), stdout(&output).as_str()),
            (Some(2), ""),
            "{arguments:?}"
        );
        let error: Value = serde_json::from_str(&stderr(&output))
            .unwrap_or_else(|_| panic!("{arguments:?}: {}", stderr(&output)));
        let message = error["error"]["message"].as_str().unwrap();
        assert!(message.contains(part), "{arguments:?}: {message}");
        // The same as text.
        let output = run(dir, arguments);
        assert_eq!(output.status.code(), Some(2));
        assert!(
            stderr(&output).starts_with("error: ") && stderr(&output).contains(part),
            "{}",
            stderr(&output)
        );
    }
    // An invalid file is reported error by error, as `check-config` reports it.
    let output =
        run(dir, &["explain", "--config", "wrong.yaml", "--path", "/", "--output", "json"]);
    let error: Value = serde_json::from_str(&stderr(&output)).unwrap();
    let report: Value = serde_json::from_slice(
        &run(dir, &["check-config", "wrong.yaml", "--output", "json"]).stdout,
    )
    .unwrap();
    assert_eq!(error["error"]["errors"], report["errors"]);
    assert_eq!(
        (&report["errors"][0]["file"], &report["errors"][0]["line"]),
        (&"wrong.yaml".into(), &1.into())
    );
}

#[test]
fn colors_are_printed_only_to_terminals_without_no_color() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    std::fs::write(dir.join("good.yaml"), POLICY).unwrap();
    for arguments in [
        &["check-config", "good.yaml"][..],
        &["explain", "--config", "good.yaml", "--path", "/v1/models"],
        &["check-config", "missing.yaml"],
        &["--help"],
    ] {
        let arguments: Vec<String> =
            arguments.iter().map(|argument| argument.replace("good.yaml", "./good.yaml")).collect();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let variables = [("DIR", dir.to_str().unwrap())];
        let coloured = at_a_terminal(dir, &arguments, &variables);
        assert!(coloured.contains("\x1b["), "{arguments:?}: {coloured:?}");
        let plain = at_a_terminal(dir, &arguments, &[variables[0], ("NO_COLOR", "1")]);
        assert!(!plain.contains("\x1b["), "{arguments:?}: {plain:?}");
        let output = run(dir, &arguments);
        assert!(
            !format!("{}{}", stdout(&output), stderr(&output)).contains('\x1b'),
            "{arguments:?}"
        );
    }
}

#[test]
fn progress_is_printed_only_to_terminals_and_erased() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
            let body = r#"{"info":{"title":"x","version":"1"},"paths":{"/health":{"get":{}}}}"#;
            let answer = format!(
                "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            );
            // The client may have closed the connection.
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    let dir = tempfile::tempdir().unwrap();
    for (arguments, step) in [
        (&["audit-upstream", &url, "--preset", "vllm"][..], "reading http://127.0.0.1"),
        (&["doctor", &url], "3/10: other spellings"),
    ] {
        let seen = at_a_terminal(dir.path(), arguments, &[]);
        assert!(seen.contains(&format!("\r\x1b[K{step}")), "{arguments:?}: {seen:?}");
        let report = seen.rsplit("\x1b[K").next().unwrap();
        assert!(!report.contains(" ...") && report.lines().count() >= 3, "{arguments:?}: {seen:?}");
        let output = run(dir.path(), arguments);
        assert_eq!(stderr(&output), "", "{arguments:?}");
    }
}

#[test]
fn completion_scripts_contain_the_commands() {
    let dir = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = run(dir.path(), &["completions", shell]);
        let script = stdout(&output);
        for word in ["audit-upstream", "check-config", "completions"] {
            assert!(output.status.success() && script.contains(word), "{shell}: {word}");
        }
    }
    std::fs::write(
        dir.path().join("tollgate.bash"),
        run(dir.path(), &["completions", "bash"]).stdout,
    )
    .unwrap();
    // The completion that bash requests after `tollgate check-`.
    let complete = "source ./tollgate.bash; COMP_WORDS=(tollgate check-) COMP_CWORD=1; _tollgate tollgate check- tollgate; echo \"${COMPREPLY[@]}\"";
    let output =
        Command::new("bash").args(["-c", complete]).current_dir(dir.path()).output().unwrap();
    assert_eq!((stdout(&output).trim(), stderr(&output).as_str()), ("check-config", ""));
}

#[test]
fn a_closed_pipe_is_not_an_error() {
    let dir = tempfile::tempdir().unwrap();
    for arguments in
        [&["schema"][..], &["presets", "show", "sglang"], &["completions", "bash"], &["--help"]]
    {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
        let mut child = command
            .args(arguments)
            .current_dir(dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!(stderr(&output), "", "{arguments:?}");
    }
}

/// What a hostile server sends: a link (OSC 8), a sequence (CSI) with ESC and as C1, a title, a
/// reversed text (RLO), a text that is not seen.
const HOSTILE: &str =
    "\u{1b}]8;;http://evil\u{1b}\\x\u{1b}[2J\u{9b}31m\u{9d}0;t\u{7}\u{202e}cba\u{200b}\r\u{e0041}";

/// A server whose every answer is hostile: an admin API, an inference server, a proxy.
fn hostile(status: u16) -> Server {
    Server::start(move |request| {
        let body = if status == 200 && request.path.starts_with("/v1/revocations") {
            serde_json::json!({
                "revocations": [{ "kind": HOSTILE, "key": HOSTILE, "at": 1, "expires": 2, "note": HOSTILE }],
                "next": null,
            })
        } else if status == 200 {
            serde_json::json!({
                "info": { "title": HOSTILE, "version": HOSTILE },
                "paths": { format!("/{HOSTILE}"): { "get": {} }, "/x": { "post": {} } },
            })
        } else {
            serde_json::json!({ "error": { "code": HOSTILE, "message": HOSTILE } })
        };
        Answer::Whole(
            Reply::new(status, body.to_string()).header("content-type", "application/json"),
        )
    })
}

#[test]
fn what_a_server_sends_does_not_control_the_terminal() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("token"), "x".repeat(40)).unwrap();
    for status in [200, 400, 403] {
        let url = format!("http://127.0.0.1:{}", hostile(status).port);
        for arguments in [
            &["revoke", "list", "--admin", &url, "--token-file", "token"][..],
            &["revoke", "add", "--tenant", "a", "--admin", &url, "--token-file", "token"],
            &["audit-upstream", &url, "--preset", "vllm"],
            &["doctor", &url],
        ] {
            for format in ["text", "json"] {
                let output = run(dir.path(), &[arguments, &["--output", format]].concat());
                let shown = stdout(&output) + &stderr(&output);
                let controls = |c: &char| {
                    c.is_control() && *c != '\n'
                        || matches!(c, '\u{200b}'..='\u{202e}' | '\u{e0000}'..='\u{e0fff}')
                };
                assert_eq!(shown.chars().find(controls), None, "{arguments:?} {format}: {shown:?}");
                assert!(!shown.is_empty());
            }
        }
    }
}
