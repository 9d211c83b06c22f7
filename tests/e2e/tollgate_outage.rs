//! Tollgate stopped and killed behind a real Envoy, with each failure policy of the proxy.

use std::time::Duration;

use serde_json::json;

use crate::rig::{
    POLICY, Rig, chat,
    envoy::{CURRENT, Envoy, failure_mode_allow},
    http::Request,
    until,
};

#[test]
fn without_tollgate_or_its_answer_the_proxy_s_failure_policy_applies() {
    failure_policies(CURRENT);
}

pub(super) fn failure_policies(version: &str) {
    let mut rig = Rig::on(version, POLICY, |envoy| envoy);
    let lenient = Envoy::start(rig.dir.path(), rig.upstream.port, version, failure_mode_allow);
    let token = rig.token(json!({}));
    assert_eq!([rig.chat(&token).status, lenient.send(&chat(&token)).status], [200, 200]);
    rig.upstream.taken();

    let outcome = |envoy: &Envoy, about: &str, expected: (u16, usize)| {
        // A request without a credential: no check was made, so nothing was decided.
        let reply = envoy.send(&Request::get("/v1/models"));
        assert_eq!((reply.status, rig.upstream.taken().len()), expected, "{about}");
        assert!(reply.took < Duration::from_secs(15), "{about}: {:?}", reply.took);
    };
    rig.tollgate.process.pause();
    outcome(&rig.envoy, "no answer, failure_mode_allow: false", (503, 0));
    outcome(&lenient, "no answer, failure_mode_allow: true", (200, 1));
    rig.tollgate.process.resume();
    until("answers again", || (rig.chat(&token).status == 200).then_some(()));
    rig.upstream.taken();

    rig.tollgate.process.kill();
    outcome(&rig.envoy, "killed, failure_mode_allow: false", (503, 0));
    outcome(&lenient, "killed, failure_mode_allow: true", (200, 1));
}
