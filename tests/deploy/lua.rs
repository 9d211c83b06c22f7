//! The Lua functions of the gateways that cannot be run here, with stubs of these gateways.

use std::process::Command;

use super::{documents, read};
use crate::rig::part;

#[test]
#[ignore = "needs a large download: make test-all"]
fn the_functions_for_kong_and_apisix_check_everything_that_they_forward() {
    let dir = tempfile::tempdir().unwrap();
    let kong = &documents(&read("deploy/kong/kong.yaml"))[0];
    let apisix = &documents(&read("deploy/apisix/apisix.yaml"))[0];
    let mut script = read("tests/deploy/lua_gateways.lua");
    for (name, function) in [
        ("KONG", &kong["services"][0]["plugins"][0]["config"]["access"][0]),
        ("APISIX", &apisix["routes"][0]["plugins"]["serverless-pre-function"]["functions"][0]),
    ] {
        let path = dir.path().join(format!("{name}.lua"));
        std::fs::write(&path, function.as_str().unwrap()).unwrap();
        script = script.replace(&format!("\"{name}\""), &format!("\"{}\"", path.display()));
    }
    let (lua, config) = (dir.path().join("test.lua"), dir.path().join("haproxy.cfg"));
    std::fs::write(&lua, script).unwrap();
    std::fs::write(&config, format!("global\n    lua-load {}\n", lua.display())).unwrap();
    let mut haproxy = Command::new(part("haproxy", "haproxy"));
    let output = haproxy.arg("-c").arg("-f").arg(&config).output().unwrap();
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(said.contains("every function passed"), "{said}");
}
