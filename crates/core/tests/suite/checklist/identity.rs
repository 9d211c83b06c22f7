//! J11 and J12: issuer and audience, compared byte for byte and with the required type.

use tollgate_core::denial::Reason;

use crate::{
    harness::{Harness, Row, Table, row},
    keys::{KEYS, Signer, jwk_members},
    token::{Members, signed},
};

const UNKNOWN_ISSUER: Result<(), Reason> = Err(Reason::UnknownIssuer);
const WRONG_AUDIENCE: Result<(), Reason> = Err(Reason::WrongAudience);

pub fn tables() -> Vec<Table> {
    let mut rows = issuer();
    rows.extend(keys_of_another_issuer());
    rows.extend(audience());
    vec![Table::standard(rows), without_issuer(), other_audience_claims()]
}

fn rsa(claims: Members) -> String {
    signed(Signer::Rs256, Members::header("RS256", "rsa").json(), claims.json())
}

/// J11, and CVE-2024-53861: `in` on a string is true for every part of it.
fn issuer() -> Vec<Row> {
    let good = "https://rsa.example";
    let mut rows = vec![row("J11", "the exact issuer", rsa(Members::claims(good)), Ok(()))];
    for iss in [
        "",
        "h",
        "https://",
        "https://rsa",
        "rsa.example",
        "https://rsa.exampl",
        "https://rsa.example/",
        "https://rsa.example/realm",
        "https://rsa.example.attacker.example",
        "https://rsa.examplf",
        "HTTPS://rsa.example",
        "https://RSA.example",
        "http://rsa.example",
        "https://rsa.example:443",
        "https://user@rsa.example",
        "https://rsa.example#",
        "https://rsa.example?",
        "https://attacker.example/https://rsa.example",
        " https://rsa.example",
        "https://rsa.example ",
        "https://rsa.example\n",
        "https://rsa.example\0",
        "https://rsa.example,https://other.example",
        "https://rsa%2Eexample",
        "https://r\u{455}a.example",
        "https://rsa\u{3002}example",
        "//rsa.example",
        "https:/rsa.example",
        "https://rsa.example.",
        "absent",
        "*",
        "null",
    ] {
        rows.push(row("J11", format!("iss {iss:?}"), rsa(Members::claims(iss)), UNKNOWN_ISSUER));
    }
    for iss in [
        "null",
        "0",
        "true",
        "[]",
        "{}",
        "[\"https://rsa.example\"]",
        "[\"https://rsa.example\",\"https://other.example\"]",
        "[[\"https://rsa.example\"]]",
        "{\"iss\":\"https://rsa.example\"}",
        "{\"https://rsa.example\":true}",
    ] {
        rows.push(row(
            "J11",
            format!("iss {iss}"),
            rsa(Members::claims("").with("iss", iss)),
            UNKNOWN_ISSUER,
        ));
    }
    rows.push(row("J11", "no iss", rsa(Members::claims("").without("iss")), UNKNOWN_ISSUER));
    let escaped = Members::claims("").with("iss", "\"https:\\/\\/rsa.ex\\u0061mple\"");
    rows.push(row("J11", "the same string in other JSON letters", rsa(escaped), Ok(())));
    rows
}

/// J11: the name of a key is a name within its issuer.
fn keys_of_another_issuer() -> Vec<Row> {
    let token = |iss: &str, alg: &str, kid: &str, signer| {
        signed(signer, Members::header(alg, kid).json(), Members::claims(iss).json())
    };
    let bad_signature = Err(Reason::BadSignature);
    vec![
        row(
            "J11",
            "the other issuer's own key of the same name",
            token("https://other.example", "RS256", "rsa", Signer::OtherRs256),
            Ok(()),
        ),
        row(
            "J11",
            "this issuer's key under the other's iss",
            token("https://other.example", "RS256", "rsa", Signer::Rs256),
            bad_signature,
        ),
        row(
            "J11",
            "the other's key under this iss",
            token("https://rsa.example", "RS256", "rsa", Signer::OtherRs256),
            bad_signature,
        ),
        row(
            "J11",
            "a name that only another issuer has",
            token("https://other.example", "RS256", "noalg", Signer::Rs256),
            Err(Reason::UnknownKey),
        ),
        row(
            "J11",
            "an algorithm that only another issuer has",
            token("https://other.example", "EdDSA", "ed", Signer::Ed),
            Err(Reason::AlgorithmNotAllowed),
        ),
        row(
            "J11",
            "no iss, signed with a trusted key",
            signed(
                Signer::Ed,
                Members::header("EdDSA", "ed").json(),
                Members::claims("").without("iss").json(),
            ),
            UNKNOWN_ISSUER,
        ),
    ]
}

/// J12 and CVE-2025-62610: the audience is required, and must contain a name of the service.
fn audience() -> Vec<Row> {
    let with = |raw: &str| rsa(Members::claims("https://rsa.example").with("aud", raw));
    let mut rows = Vec::new();
    for aud in [
        "\"inference-api\"",
        "[\"inference-api\"]",
        "[\"other\",\"inference-api\"]",
        "[\"inference-api\",\"other\",\"third\"]",
        "[\"inference-api\",\"inference-api\"]",
        "[\"\",\"inference-api\"]",
        "\"inference\\u002dapi\"",
    ] {
        rows.push(row("J12", format!("aud {aud}"), with(aud), Ok(())));
    }
    for aud in [
        "\"\"",
        "\"inference\"",
        "\"inference-ap\"",
        "\"inference-api2\"",
        "\"my-inference-api\"",
        "\"Inference-API\"",
        "\" inference-api\"",
        "\"inference-api \"",
        "\"inference-api\\n\"",
        "\"inference-api\\u0000\"",
        "\"inference-api/\"",
        "\"inference-api other\"",
        "\"other inference-api\"",
        "\"inference-api,other\"",
        "\"*\"",
        "\".*\"",
        "\"any\"",
        "\"inference_api\"",
        "\"inference%2Dapi\"",
        "\"inference\\u2010api\"",
        "\"https://rsa.example\"",
        "\"client-1\"",
        "[]",
        "[\"\"]",
        "[\"other\"]",
        "[\"inference\",\"-api\"]",
        "[[\"inference-api\"]]",
        "[[\"inference-api\"],\"other\"]",
        "null",
        "true",
        "0",
        "{}",
        "{\"inference-api\":true}",
        "{\"aud\":\"inference-api\"}",
        "[null]",
        "[{\"aud\":\"inference-api\"}]",
        // A list with anything but strings is no audience, whatever else it holds.
        "[\"inference-api\",5]",
        "[null,\"inference-api\"]",
        "[\"inference-api\",[]]",
        "[\"inference-api\",{}]",
        "\"[\\\"inference-api\\\"]\"",
    ] {
        rows.push(row("J12", format!("aud {aud}"), with(aud), WRONG_AUDIENCE));
    }
    let claims = || Members::claims("https://rsa.example");
    rows.push(row("J12", "no aud", rsa(claims().without("aud")), WRONG_AUDIENCE));
    rows.push(row(
        "J12",
        "no aud, but azp",
        rsa(claims().without("aud").text("azp", "inference-api")),
        WRONG_AUDIENCE,
    ));
    rows.push(row(
        "J12",
        "no aud, but Aud",
        rsa(claims().without("aud").text("Aud", "inference-api")),
        WRONG_AUDIENCE,
    ));
    rows.push(row(
        "J12",
        "no aud, but client_id",
        rsa(claims().without("aud").text("client_id", "inference-api")),
        WRONG_AUDIENCE,
    ));
    let crowd: Vec<String> = (0..300).map(|n| format!("\"service-{n}\"")).collect();
    rows.push(row("J12", "300 others", with(&format!("[{}]", crowd.join(","))), WRONG_AUDIENCE));
    rows.push(row(
        "J12",
        "300 others and ours",
        with(&format!("[{},\"inference-api\"]", crowd.join(","))),
        Ok(()),
    ));
    rows
}

const ROUTES: &str = "routes: [{ match: { paths: [/v1/models], methods: [GET] }, scopes: [] }]\n";

/// J11 where tokens without `iss` are configured (`absent`): the tutorials' tokens, and no others.
fn without_issuer() -> Table {
    let issuer = "{ issuer: absent, audiences: any, algorithms: [EdDSA], kid: optional, jwks: { file: /k } }";
    let named = "{ issuer: https://rsa.example, audiences: [inference-api], algorithms: [RS256], jwks: { file: /k } }";
    let ed = [format!("{{{}}}", jwk_members(&KEYS.ed))];
    let rsa = [format!("{{\"kid\":\"rsa\",{}}}", jwk_members(&KEYS.rsa))];
    let harness = Harness::new(
        &format!("issuers: [{issuer}, {named}]\n{ROUTES}"),
        &[("", &ed[..]), ("https://rsa.example", &rsa[..])],
    );
    let token = |signer, alg: &str, claims: Members| {
        signed(signer, Members::header(alg, "rsa").json(), claims.json())
    };
    let bare = |claims: Members| {
        signed(Signer::Ed, Members::header("EdDSA", "").without("kid").json(), claims.json())
    };
    let claims = || Members::claims("").without("iss");
    let mut rows = vec![
        row("J11", "no iss, where that is an issuer", bare(claims()), Ok(())),
        row(
            "J11",
            "no iss and no aud, where any audience will do",
            bare(claims().without("aud")),
            Ok(()),
        ),
        row(
            "J11",
            "no iss, signed with the key of an issuer with a name",
            token(Signer::Rs256, "RS256", claims()),
            Err(Reason::AlgorithmNotAllowed),
        ),
        row(
            "J11",
            "the named issuer beside it",
            token(Signer::Rs256, "RS256", Members::claims("https://rsa.example")),
            Ok(()),
        ),
        row(
            "J11",
            "the named issuer's iss, signed with the key for no iss",
            bare(Members::claims("https://rsa.example")),
            Err(Reason::AlgorithmNotAllowed),
        ),
    ];
    for iss in ["\"\"", "\"absent\"", "null", "[]", "false"] {
        rows.push(row(
            "J11",
            format!("iss {iss}, where tokens without iss are known"),
            bare(claims().with("iss", iss)),
            UNKNOWN_ISSUER,
        ));
    }
    Table { harness, rows }
}

/// J12 with the audience in another claim (`audience_claim`), and with several names of the
/// service.
fn other_audience_claims() -> Table {
    let issuer = "{ issuer: https://cognito.example, audiences: [client-1, client-2], audience_claim: client_id, \
                  algorithms: [EdDSA], jwks: { file: /k } }";
    let ed = [format!("{{\"kid\":\"ed\",{}}}", jwk_members(&KEYS.ed))];
    let harness = Harness::new(
        &format!("issuers: [{issuer}]\n{ROUTES}"),
        &[("https://cognito.example", &ed[..])],
    );
    let token =
        |claims: Members| signed(Signer::Ed, Members::header("EdDSA", "ed").json(), claims.json());
    let claims = || Members::claims("https://cognito.example").without("aud");
    let rows = vec![
        row("J12", "the first of ours", token(claims().text("client_id", "client-1")), Ok(())),
        row("J12", "the second of ours", token(claims().text("client_id", "client-2")), Ok(())),
        row("J12", "neither", token(claims().text("client_id", "client-3")), WRONG_AUDIENCE),
        row("J12", "a part of both", token(claims().text("client_id", "client-")), WRONG_AUDIENCE),
        row("J12", "none", token(claims()), WRONG_AUDIENCE),
        row("J12", "in aud instead", token(claims().text("aud", "client-1")), WRONG_AUDIENCE),
        row(
            "J12",
            "in both, aud another",
            token(claims().text("aud", "x").text("client_id", "client-1")),
            Ok(()),
        ),
    ];
    Table { harness, rows }
}

#[test]
fn the_lines_hold() {
    tables().iter().for_each(Table::hold);
}
