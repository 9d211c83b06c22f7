//! Models: aliases, tiers, adapters, defaults.

use tollgate_core::denial::Reason;

use super::{Bodies, errors, no};

const POLICY: &str = "
models:
  - { name: small, aliases: [gpt-small] }
  - { name: large, serves: [Qwen/Large], aliases: [gpt-large, premium-chat] }
  - { name: tuned, serves: [sql-adapter] }
  - { name: whole, serves: ['small:whole'] }
tiers:
  - { name: premium, models: [large], scope: 'tier:premium', caps: { max_tokens: 1000 } }
  - { name: basic, models: [large, tuned], scope: 'tier:basic', caps: { max_tokens: 10, n: 1 } }
routes:
  - { match: { paths: [/plain], methods: [POST] }, scopes: [], model: { from: body } }
  - { match: { paths: [/scoped], methods: [POST] }, scopes: [], model: { from: body, scope: 'model:{model}' } }
  - { match: { paths: [/default], methods: [POST] }, scopes: [], model: { from: body, scope: 'model:{model}', default: gpt-small } }
  - match: { paths: [/lora], methods: [POST] }
    scopes: []
    model: { from: body, scope: 'model:{model}', adapters: { separator: ':', fields: [/lora_path] } }
";

#[test]
fn the_target_of_an_alias_is_checked() {
    let forbidden = no(Reason::ModelForbidden, "model");
    Bodies::new(POLICY).hold(&[
        ("the name itself", "model:small", "/scoped", r#"{"model":"small"}"#, Ok(())),
        (
            "an alias, with the target's scope",
            "model:small",
            "/scoped",
            r#"{"model":"gpt-small"}"#,
            Ok(()),
        ),
        (
            "a scope of the alias's name is worth nothing",
            "model:gpt-small",
            "/scoped",
            r#"{"model":"gpt-small"}"#,
            forbidden,
        ),
        (
            "an alias of a model one may not use",
            "model:small tier:premium",
            "/scoped",
            r#"{"model":"gpt-large"}"#,
            forbidden,
        ),
        (
            "a policy name that is not served under it",
            "model:large tier:premium",
            "/scoped",
            r#"{"model":"large"}"#,
            forbidden,
        ),
        ("an unknown name", "model:small", "/scoped", r#"{"model":"other"}"#, forbidden),
        ("aliases are exact", "model:small", "/scoped", r#"{"model":"GPT-small"}"#, forbidden),
    ]);
}

#[test]
fn tiers_open_models_and_cap_them() {
    let forbidden = no(Reason::ModelForbidden, "model");
    let over = no(Reason::FieldForbidden, "max_tokens");
    Bodies::new(POLICY).hold(&[
        (
            "a model in no tier needs none",
            "x",
            "/plain",
            r#"{"model":"small","max_tokens":9999}"#,
            Ok(()),
        ),
        ("no tier", "x", "/plain", r#"{"model":"Qwen/Large"}"#, forbidden),
        (
            "the scope of the second tier",
            "tier:basic",
            "/plain",
            r#"{"model":"Qwen/Large","max_tokens":10}"#,
            Ok(()),
        ),
        ("its cap", "tier:basic", "/plain", r#"{"model":"Qwen/Large","max_tokens":11}"#, over),
        (
            "its cap through an alias",
            "tier:basic",
            "/plain",
            r#"{"max_tokens":11,"model":"premium-chat"}"#,
            over,
        ),
        (
            "its cap under another name",
            "tier:basic",
            "/plain",
            r#"{"model":"Qwen/Large","max_output_tokens":11}"#,
            no(Reason::FieldForbidden, "max_output_tokens"),
        ),
        (
            "the first tier in the file decides for who has both",
            "tier:basic tier:premium",
            "/plain",
            r#"{"model":"Qwen/Large","max_tokens":1000,"n":8}"#,
            Ok(()),
        ),
        (
            "and its cap holds",
            "tier:basic tier:premium",
            "/plain",
            r#"{"model":"Qwen/Large","max_tokens":1001}"#,
            over,
        ),
        (
            "the other tier's model",
            "tier:premium",
            "/plain",
            r#"{"model":"sql-adapter"}"#,
            forbidden,
        ),
        (
            "the scope of the model does not replace the tier",
            "model:large",
            "/scoped",
            r#"{"model":"Qwen/Large"}"#,
            forbidden,
        ),
    ]);
    let harness = Bodies::new(POLICY);
    let challenge = harness.json("x", "/plain", r#"{"model":"Qwen/Large"}"#);
    assert!(
        challenge
            .header("www-authenticate")
            .unwrap()
            .ends_with(", scope=\"tier:premium tier:basic\"")
    );
}

#[test]
fn a_missing_model_is_the_declared_default() {
    let missing = no(Reason::ModelMissing, "model");
    Bodies::new(POLICY).hold(&[
        ("no model and no default", "model:small", "/scoped", "{}", missing),
        ("null is missing", "model:small", "/scoped", r#"{"model":null}"#, missing),
        ("no model: the default", "model:small", "/default", "{}", Ok(())),
        ("null: the default", "model:small", "/default", r#"{"model":null}"#, Ok(())),
        (
            "the default needs its scope",
            "model:large",
            "/default",
            "{}",
            no(Reason::ModelForbidden, "model"),
        ),
        (
            "an empty name is not missing",
            "model:small",
            "/default",
            r#"{"model":""}"#,
            no(Reason::MalformedRequest, "model"),
        ),
        (
            "a number is not missing",
            "model:small",
            "/default",
            r#"{"model":0}"#,
            no(Reason::MalformedRequest, "model"),
        ),
    ]);
}

#[test]
fn adapters_are_models() {
    let forbidden = no(Reason::ModelForbidden, "model");
    Bodies::new(POLICY).hold(&[
        (
            "base and adapter, both open",
            "model:small model:tuned tier:basic",
            "/lora",
            r#"{"model":"small:sql-adapter"}"#,
            Ok(()),
        ),
        (
            "the adapter's scope is missing",
            "model:small tier:basic",
            "/lora",
            r#"{"model":"small:sql-adapter"}"#,
            forbidden,
        ),
        (
            "the adapter's tier is missing",
            "model:small model:tuned",
            "/lora",
            r#"{"model":"small:sql-adapter"}"#,
            forbidden,
        ),
        (
            "the base's scope is missing",
            "model:tuned tier:basic",
            "/lora",
            r#"{"model":"small:sql-adapter"}"#,
            forbidden,
        ),
        ("an unknown adapter", "model:small", "/lora", r#"{"model":"small:other"}"#, forbidden),
        (
            "an empty adapter",
            "model:small",
            "/lora",
            r#"{"model":"small:"}"#,
            no(Reason::MalformedRequest, "model"),
        ),
        (
            "split at the first separator",
            "model:small model:tuned tier:basic",
            "/lora",
            r#"{"model":"small:sql-adapter:x"}"#,
            forbidden,
        ),
        (
            "a name that is listed as a whole",
            "model:whole",
            "/lora",
            r#"{"model":"small:whole"}"#,
            Ok(()),
        ),
        (
            "a field",
            "model:small model:tuned tier:basic",
            "/lora",
            r#"{"model":"small","lora_path":"sql-adapter"}"#,
            Ok(()),
        ),
        (
            "a field without the scope",
            "model:small",
            "/lora",
            r#"{"model":"small","lora_path":"sql-adapter"}"#,
            forbidden,
        ),
        (
            "a list of them",
            "model:small",
            "/lora",
            r#"{"model":"small","lora_path":[null,"sql-adapter"]}"#,
            forbidden,
        ),
        ("none", "model:small", "/lora", r#"{"model":"small","lora_path":null}"#, Ok(())),
        (
            "no name at all",
            "model:small",
            "/lora",
            r#"{"model":"small","lora_path":{"a":1}}"#,
            no(Reason::MalformedRequest, "lora_path"),
        ),
        (
            "no separator on another route",
            "model:small",
            "/scoped",
            r#"{"model":"small:sql-adapter"}"#,
            forbidden,
        ),
    ]);
}

#[test]
fn what_makes_no_sense_does_not_compile() {
    let routes =
        "routes: [{ match: { paths: [/x], methods: [POST] }, scopes: [], model: { from: body } }]";
    for (policy, expected) in [
        (
            format!("models: [{{ name: a, aliases: [b] }}, {{ name: b }}]\n{routes}"),
            "`b` is already served by `a`",
        ),
        (
            format!("tiers: [{{ name: t, models: [a], scope: s }}]\n{routes}"),
            "there is no model named `a`",
        ),
        (
            format!(
                "models: [{{ name: a }}]\ntiers: [{{ name: t, models: [], scope: s }}]\n{routes}"
            ),
            "list at least one of the `models`",
        ),
        (
            format!(
                "models: [{{ name: a }}]\ntiers: [{{ name: t, models: [a], scope: 'a b' }}]\n{routes}"
            ),
            "is not a scope",
        ),
        (
            format!(
                "models: [{{ name: a }}]\n{}",
                routes.replace("from: body", "from: body, default: b")
            ),
            "`b` is served by none",
        ),
    ] {
        let found = errors(&policy);
        assert!(found.contains(expected), "{expected}: {found}");
    }
}
