//! The image, without a container engine: the program runs in the root file system of the image, as
//! its user.

use std::{
    os::unix::fs::MetadataExt as _,
    path::Path,
    process::{Command, Output},
};

use super::{at, documents, read, succeeds};
use crate::rig::{http::Request, process::Process};

/// The user of the image and of the chart.
const USER: &str = "65532:65532";

/// A program that sees only `root`: with `chroot` as root, in a user namespace as another user.
fn inside(root: &Path, arguments: &[&str]) -> Command {
    let mut command;
    // The process runs as the user of the image.
    if std::fs::metadata("/proc/self").unwrap().uid() == 0 {
        command = Command::new("chroot");
        command.arg(format!("--userspec={USER}")).arg(root);
    } else {
        command = Command::new("unshare");
        command.arg("--map-root-user").arg(format!("--root={}", root.display()));
    }
    command
        .arg("/usr/local/bin/tollgate")
        .args(arguments)
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    command
}

const CONFIG: &str = r#"
listen: { grpc: "unix:/run/tollgate/authz.sock", ops: "127.0.0.1:0" }
issuers:
  - issuer: https://auth.example.com
    audiences: [inference-api]
    algorithms: [RS256]
    jwks: { file: /etc/tollgate/jwks.json }
routes: [{ preset: vllm }]
"#;

#[test]
fn the_program_runs_in_the_images_root_file_system() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    std::fs::create_dir(&root).unwrap();
    succeeds(
        Command::new(at("deploy/image/rootfs")).arg(env!("CARGO_BIN_EXE_tollgate")).arg(&root),
    );

    let version = succeeds(&mut inside(&root, &["--version"]));
    assert!(
        version.starts_with(concat!("tollgate ", env!("CARGO_PKG_VERSION"), " (")),
        "{version}"
    );

    std::fs::write(root.join("etc/tollgate/tollgate.yaml"), CONFIG).unwrap();
    crate::rig::issuer::Issuer::new("https://auth.example.com").publish(&root.join("etc/tollgate"));
    succeeds(&mut inside(&root, &["check-config", "/etc/tollgate/tollgate.yaml"]));

    let mut tollgate = Process::start(
        dir.path(),
        "tollgate",
        &mut inside(&root, &["serve", "--config", "/etc/tollgate/tollgate.yaml"]),
    );
    let ops = tollgate.until("a port", |process| {
        let log = process.err();
        let line = log.lines().find(|line| line.contains("listening"))?;
        line.split_once("ops=127.0.0.1:")?
            .1
            .chars()
            .take_while(char::is_ascii_digit)
            .collect::<String>()
            .parse()
            .ok()
    });
    tollgate.until("readiness", |_| {
        (Request::get("/readyz").try_send(ops)?.status == 200).then_some(())
    });
    assert!(
        root.join("run/tollgate/authz.sock").exists(),
        "the socket is where Envoy looks for it"
    );
}

#[test]
fn a_library_that_the_base_does_not_have_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    // A program that needs more than the C library.
    let program = ["/usr/bin/git", "/usr/bin/python3", "/usr/bin/apt-get", "/bin/bash"]
        .into_iter()
        .find(|path| Path::new(path).exists());
    let Output { status, stderr, .. } = Command::new(at("deploy/image/rootfs"))
        .arg(program.unwrap())
        .arg(dir.path().join("root"))
        .output()
        .unwrap();
    assert!(!status.success());
    assert!(String::from_utf8_lossy(&stderr).contains("which distroless/cc does not have"));
}

#[test]
fn the_image_the_chart_and_the_compose_file_agree() {
    let dockerfile = read("deploy/image/Dockerfile");
    for said in [
        "ENTRYPOINT [\"/usr/local/bin/tollgate\"]",
        &format!("USER {USER}"),
        "--chown=65532:65532 /out/run/tollgate",
    ] {
        assert!(dockerfile.contains(said), "{said}");
    }
    let values = &documents(&read("deploy/helm/tollgate/values.yaml"))[0];
    let context = &values["securityContext"];
    assert_eq!(format!("{}:{}", context["runAsUser"], context["runAsGroup"]), USER);
    assert!(
        read("deploy/helm/tollgate/templates/_pod.tpl")
            .contains("command: [/usr/local/bin/tollgate]")
    );
    let compose = &documents(&read("deploy/compose/compose.yaml"))[0];
    assert_eq!(
        compose["services"]["tollgate"]["image"],
        format!("tollgate:{}", env!("CARGO_PKG_VERSION"))
    );
    assert_eq!(compose["services"]["tollgate"]["user"], USER);
}

#[test]
fn without_an_engine_the_build_names_those_it_looked_for() {
    let dir = tempfile::tempdir().unwrap();
    for tool in ["bash", "sed", "head", "dirname"] {
        let found = succeeds(Command::new("sh").args(["-c", &format!("command -v {tool}")]));
        std::os::unix::fs::symlink(found.trim(), dir.path().join(tool)).unwrap();
    }
    let output = Command::new(dir.path().join("bash"))
        .arg(at("deploy/image/build"))
        .env_clear()
        .env("PATH", dir.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    for engine in [
        "docker is not installed",
        "podman is not installed",
        "buildah is not installed",
        "cargo build --release",
    ] {
        assert!(said.contains(engine), "{said}");
    }
}
