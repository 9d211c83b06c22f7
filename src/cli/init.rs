//! `tollgate init`: a first configuration, with a comment for everything that has to be decided.

mod file;
mod proxy;

use std::{
    fs::OpenOptions,
    io::{self, Write},
    process::ExitCode,
};

use anyhow::{Context as _, bail};
use clap::{Args, builder::PossibleValuesParser};
use tollgate_core::route::preset::{Preset, names};

use self::proxy::Proxy;
use crate::config;

const MORE: &str = "\
Examples:
  tollgate init --preset vllm --issuer https://auth.example.com
  tollgate init --preset vllm --api-keys keys.json
  tollgate init --preset ms-swift --issuer https://auth.example.com \\
    --audience swift-api --proxy nginx -o swift.yaml
  tollgate init --preset sglang --issuer https://keycloak.example.com/realms/ml \\
    --redis redis://redis:6379 -o -

Exit codes:
  0  written
  2  the file exists, or the options make no valid configuration";

/// Write a first configuration file, with comments.
///
/// Writes a configuration for the preset of an inference server, one issuer of tokens or a file of
/// API keys or both, and one proxy, with a comment at each decision, and prints the commands that
/// come next. The file passes `check-config`
/// as it is. An existing file is never overwritten.
#[derive(Debug, Args)]
#[command(after_long_help = MORE)]
pub struct Init {
    /// The preset of the inference server.
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(names().collect::<Vec<_>>()))]
    preset: String,
    /// The issuer of the tokens, exactly as in their `iss`, or `absent` for tokens without `iss`.
    #[arg(long, value_name = "URL", required_unless_present = "api_keys")]
    issuer: Option<String>,
    /// The file of API keys, which clients send in place of a token. `tollgate keys create` makes it.
    #[arg(long, value_name = "FILE")]
    api_keys: Option<String>,
    /// The name of this service in the tokens' `aud`.
    #[arg(long, value_name = "AUDIENCE", default_value = "inference-api")]
    audience: String,
    /// The URL of the issuer's keys. Default: the one in
    /// `<issuer>/.well-known/openid-configuration`, and for `absent` a shared secret in a file.
    #[arg(long, value_name = "URL", requires = "issuer")]
    jwks: Option<String>,
    /// The proxy in front. `nginx` is nginx with njs, which sends bodies; `nginx-auth-request` and
    /// `caddy` cannot.
    #[arg(long, value_enum, default_value_t = Proxy::Envoy)]
    proxy: Proxy,
    /// The Redis that all replicas share, without a password. Default: limits and revocations in
    /// memory, right for one replica.
    #[arg(long, value_name = "URL")]
    redis: Option<String>,
    /// The file to write, which must not exist, or `-` for standard output.
    #[arg(short, long = "out", value_name = "FILE", default_value = "tollgate.yaml")]
    out: String,
}

impl Init {
    /// Writes the file, and prints the next commands to `out`.
    ///
    /// # Errors
    /// A file that exists or cannot be written, or options that make no valid configuration.
    pub fn run(&self, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
        let preset = Preset::load(&self.preset)?;
        if self.redis.as_ref().is_some_and(|url| url.contains('@')) {
            bail!(
                "the URL of `--redis` contains a user or a password; leave it out, and write `username` and `password: \"file:…\"` into the file"
            );
        }
        let text = file::text(self, &preset);
        // No variable is looked up: the options are literal text, and are written as such.
        if let Err(errors) = config::compile(&text, &|_| None) {
            let lines: Vec<String> =
                errors.iter().map(|error| format!("{}: {}", error.path, error.message())).collect();
            bail!(
                "nothing was written, because it would not pass check-config: {}",
                lines.join("; ")
            );
        }
        if self.out == "-" {
            out.write_all(text.as_bytes())?;
            return Ok(ExitCode::SUCCESS);
        }
        let opened = OpenOptions::new().write(true).create_new(true).open(&self.out);
        let mut file = match opened {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                bail!("`{}` exists and is not overwritten; name another file with -o", self.out)
            }
            other => other.with_context(|| format!("cannot write `{}`", self.out))?,
        };
        file.write_all(text.as_bytes()).with_context(|| format!("cannot write `{}`", self.out))?;
        out.write_all(self.next(&preset).as_bytes())?;
        Ok(ExitCode::SUCCESS)
    }

    /// Whether the tokens have no `iss`.
    fn is_absent(&self) -> bool {
        self.issuer.as_deref() == Some("absent")
    }

    /// The credentials that the file accepts, for the report.
    fn credentials(&self) -> String {
        let tokens = self.issuer.as_ref().map(|issuer| {
            let of = if self.is_absent() { "without `iss`".into() } else { format!("of {issuer}") };
            format!("tokens {of} for `{}`", self.audience)
        });
        let keys = self.api_keys.as_ref().map(|file| format!("API keys of `{file}`"));
        Vec::from_iter(tokens.into_iter().chain(keys)).join(" and ")
    }

    fn next(&self, preset: &Preset) -> String {
        let (file, port) = (&self.out, preset.port);
        let key = self.api_keys.as_ref().map(|keys| {
            let scopes = first_scopes(preset);
            (
                format!("tollgate keys create --file {keys} --subject NAME{scopes} > key.txt"),
                "make a key, which is printed once",
            )
        });
        let token = self.issuer.as_ref().map(|_| {
            ("tollgate token inspect @token.txt".to_owned(), "compare a token with the file")
        });
        let credential = if token.is_some() { "token" } else { "key" };
        let scopes =
            (format!("tollgate presets show {}", self.preset), "list the scopes of each route");
        let check = (format!("tollgate check-config {file}"), "check the file after a change");
        // The file of keys is made before it is checked.
        let (first, second) = if key.is_some() { (scopes, check) } else { (check, scopes) };
        let rows: Vec<(String, &str)> = [first]
            .into_iter()
            .chain(key)
            .chain([second])
            .chain(token)
            .chain([
                (
                    format!("tollgate audit-upstream http://127.0.0.1:{port} --config {file}"),
                    "list what the server offers and what is open",
                ),
                (format!("tollgate serve --config {file}"), "start Tollgate"),
                (
                    format!("tollgate doctor http://127.0.0.1:8080 --token @{credential}.txt"),
                    "try to go around the proxy",
                ),
            ])
            .collect();
        let width = rows.iter().map(|(command, _)| command.len()).max().unwrap_or(0);
        let rows: String =
            rows.iter().map(|(command, why)| format!("  {command:<width$}  # {why}\n")).collect();
        format!(
            "wrote {file}: {} behind {}, with {}\nthe proxy's side is {}\n\nnext:\n{rows}",
            preset.server,
            self.proxy.called(),
            self.credentials(),
            self.proxy.shipped()
        )
    }
}

/// The scopes of the first route of a preset that is called with a body, as options of
/// `keys create`.
fn first_scopes(preset: &Preset) -> String {
    let is_called = |method: &String| method == "POST";
    let mut routes = preset.routes.iter().filter(|route| route.methods.iter().any(is_called));
    let route = routes.find(|route| !route.scopes.is_empty());
    let scopes = route.into_iter().flat_map(|route| &route.scopes);
    scopes.map(|scope| format!(" --scope {scope}")).collect()
}

#[cfg(test)]
mod tests {
    use clap::{Parser, ValueEnum as _};

    use tollgate_core::secret::SecretSource;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        init: Init,
    }

    fn printed(more: &[&str]) -> anyhow::Result<String> {
        let issuer = ["--issuer", "https://auth.example.com"];
        let named = more.contains(&"--issuer") || more.contains(&"--api-keys");
        let issuer = if named { &[][..] } else { &issuer };
        let mut out = Vec::new();
        let line = [&["init", "-o", "-"], issuer, more].concat();
        Line::try_parse_from(line).unwrap().init.run(&mut out)?;
        Ok(String::from_utf8(out).unwrap())
    }

    /// The same with every key that is a comment: `# word: …`, and entries of lists.
    fn uncommented(text: &str) -> String {
        let line = |line: &str| {
            let (indent, rest) = line.split_at(line.len() - line.trim_start().len());
            let key = rest.strip_prefix("# ").filter(|rest| {
                rest.trim_start().starts_with("- {")
                    || rest.split(' ').next().is_some_and(|word| word.ends_with(':'))
            });
            key.map_or_else(|| line.to_owned(), |key| format!("{indent}{key}"))
        };
        text.lines().map(|text| line(text) + "\n").collect()
    }

    #[test]
    fn every_preset_and_every_proxy_give_a_good_file() {
        for preset in names() {
            for proxy in Proxy::value_variants() {
                let proxy = proxy.to_possible_value().unwrap();
                for redis in [&[][..], &["--redis", "redis://redis:6379"]] {
                    let text = printed(
                        &[&["--preset", preset, "--proxy", proxy.get_name()], redis].concat(),
                    )
                    .unwrap();
                    let loaded = config::compile(&text, &|_| None).unwrap();
                    assert!(!loaded.policy.route_names.is_empty(), "{preset}");
                    let all = uncommented(&text);
                    assert_ne!(all, text);
                    let errors = config::compile(&all, &|_| None).err();
                    assert!(errors.is_none(), "{preset} {}: {errors:?}\n{all}", proxy.get_name());
                }
            }
        }
    }

    #[test]
    fn options_are_literal_text() {
        let text = printed(&[
            "--preset",
            "vllm",
            "--audience",
            "a\"b: ${HOME}",
            "--jwks",
            "https://keys.example.com/jwks",
        ])
        .unwrap();
        let file = config::compile(&text, &|_| panic!("a name was looked up")).unwrap().file;
        assert_eq!(
            serde_json::to_value(format!("{:?}", file.policy.issuers[0].audiences)).unwrap(),
            r#"OneOf(["a\"b: ${HOME}"])"#
        );
        assert_eq!(
            file.policy.issuers[0].jwks.as_ref().unwrap().url.as_deref(),
            Some("https://keys.example.com/jwks")
        );
    }

    #[test]
    fn tokens_without_iss_have_a_shared_secret_or_a_key_set() {
        let line = ["--preset", "vllm", "--issuer", "absent"];
        let compiled = |more: &[&str]| {
            let text = printed(&[&line[..], more].concat()).unwrap();
            let uncommented = config::compile(&uncommented(&text), &|_| None);
            assert!(uncommented.is_ok(), "{:?}", uncommented.err());
            config::compile(&text, &|_| None).unwrap().file.policy.issuers.remove(0)
        };
        let issuer = compiled(&[]);
        assert_eq!((issuer.issuer.as_str(), issuer.jwks.is_some()), ("absent", false));
        assert_eq!(
            issuer.secret,
            Some(SecretSource::File("/run/secrets/tollgate-token-secret".into()))
        );
        let issuer = compiled(&["--jwks", "https://keys.example.com/jwks"]);
        assert_eq!((issuer.issuer.as_str(), issuer.secret), ("absent", None));
    }

    #[test]
    fn keys_need_no_issuer_and_are_accepted_beside_one() {
        let keys = ["--preset", "vllm", "--api-keys", "ke\"ys ${X}.json"];
        for (more, issuers) in [(&[][..], 0), (&["--issuer", "https://auth.example.com"], 1)] {
            let text = printed(&[&keys[..], more].concat()).unwrap();
            for text in [uncommented(&text), text] {
                let policy = config::compile(&text, &|_| None).unwrap().file.policy;
                assert_eq!(policy.issuers.len(), issuers, "{text}");
                let file = policy.api_keys.unwrap().file.unwrap();
                assert_eq!(file.to_str(), Some("ke\"ys ${X}.json"));
            }
        }
        assert!(Line::try_parse_from(["init", "--preset", "vllm"]).is_err());
        let jwks = ["--jwks", "https://auth.example.com/jwks.json"];
        let line = [&["init"], &keys[..], &jwks].concat();
        assert!(Line::try_parse_from(line).is_err(), "keys of an issuer that is not named");
    }

    #[test]
    fn the_next_commands_fit_the_credentials() {
        let next = |arguments: &[&str]| {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("tollgate.yaml");
            let line = [&["init", "--preset", "vllm", "-o", path.to_str().unwrap()], arguments];
            let mut out = Vec::new();
            Line::try_parse_from(line.concat()).unwrap().init.run(&mut out).unwrap();
            String::from_utf8(out).unwrap()
        };
        let (issuer, keys) = (["--issuer", "https://a.example.com"], ["--api-keys", "keys.json"]);
        let create = "keys create --file keys.json --subject NAME --scope infer:text > key.txt";
        for (arguments, parts, absent) in [
            (&issuer[..], &["with tokens of https://a.example.com for", "@token.txt"][..], "keys"),
            (&keys, &["with API keys of `keys.json`\n", create, "@key.txt"], "@token.txt"),
            (&[issuer, keys].concat(), &[" and API keys of `keys.json`\n", create], "@key.txt"),
        ] {
            let text = next(arguments);
            for part in parts {
                assert!(text.contains(part), "`{part}` in {text}");
            }
            assert!(!text.contains(absent), "`{absent}` in {text}");
        }
    }

    #[test]
    fn options_without_a_valid_configuration_are_refused() {
        for (more, part) in [
            (&["--preset", "vllm", "--issuer", "http://auth.example.com"][..], "plain http"),
            (
                &["--preset", "vllm", "--redis", "redis://:hunter2@redis"],
                "contains a user or a password",
            ),
            (&["--preset", "vllm", "--redis", "http://redis"], "store"),
        ] {
            let line: Vec<&str> =
                ["init", "-o", "-"].into_iter().chain(more.iter().copied()).collect();
            let issuer = if more.contains(&"--issuer") {
                &[][..]
            } else {
                &["--issuer", "https://a.example.com"]
            };
            let error = Line::try_parse_from([&line[..], issuer].concat())
                .unwrap()
                .init
                .run(&mut Vec::new())
                .unwrap_err();
            assert!(
                format!("{error:#}").contains(part) && !format!("{error:#}").contains("hunter2"),
                "{error:#}"
            );
        }
        assert!(
            Line::try_parse_from(["init", "--issuer", "https://a", "--preset", "vlm"]).is_err()
        );
    }

    #[test]
    fn a_file_that_exists_is_not_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tollgate.yaml");
        let run = || {
            let line = [
                "init",
                "--issuer",
                "https://auth.example.com",
                "--preset",
                "vllm",
                "-o",
                path.to_str().unwrap(),
            ];
            let mut out = Vec::new();
            Line::try_parse_from(line)
                .unwrap()
                .init
                .run(&mut out)
                .map(|_| String::from_utf8(out).unwrap())
        };
        assert!(run().unwrap().contains("\nnext:\n  tollgate check-config "));
        let written = std::fs::read_to_string(&path).unwrap();
        assert!(run().unwrap_err().to_string().contains("not overwritten"));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), written);
    }
}
