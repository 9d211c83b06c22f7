//! The degraded modes as a tested contract: each row of the matrix in docs/operations.md is executed
//! by a test here, and the page is generated from the rows.
//!
//! Rows that share their servers are a scene, which is one test. A test fails unless it has verified
//! everything that its rows state: each answer, metric, line of the log, and the recovery.

mod audit;
mod clock;
mod files;
mod held_socket;
mod identity_providers;
mod load;
mod page;
mod redis;
mod rig;
mod row;

use std::{io::Write as _, panic::catch_unwind, time::Instant};

use self::row::{Row, Verified};

/// Rows that one test executes.
struct Scene {
    heading: &'static str,
    rows: &'static [&'static Row],
    run: fn(&Verified),
}

impl Scene {
    /// Executes the rows, and fails unless all of them hold.
    fn play(&self) {
        let verified = Verified::default();
        (self.run)(&verified);
        verified.is_everything(self.rows);
    }
}

/// Makes a test of each scene, and the list of all scenes.
macro_rules! scenes {
    ($($heading:literal { $($(#[$attribute:meta])* $name:ident: $run:path => [$($row:path),+ $(,)?];)+ })+) => {
        const SCENES: &[Scene] = &[
            $($(Scene { heading: $heading, rows: &[$(&$row),+], run: $run }),+),+
        ];
        $($(
            $(#[$attribute])*
            #[test]
            fn $name() {
                Scene { heading: $heading, rows: &[$(&$row),+], run: $run }.play();
            }
        )+)+
    };
}

scenes! {
    "Identity providers" {
        identity_providers_that_misbehave: identity_providers::misbehave => [
            identity_providers::DOWN,
            identity_providers::NEVER_UP,
            identity_providers::SLOW,
            identity_providers::DRIPPING,
            identity_providers::HUGE,
            identity_providers::ERROR,
            identity_providers::REDIRECTING,
            identity_providers::HTML,
            identity_providers::CUT,
            identity_providers::EMPTY,
            identity_providers::WRONG_KIND,
            identity_providers::PRIVATE,
        ];
        an_identity_provider_that_rotates: identity_providers::rotates => [
            identity_providers::ROTATING,
        ];
    }
    "Redis" {
        redis_frozen_and_down: redis::down_and_frozen => [redis::DOWN, redis::FROZEN];
        redis_frozen_at_the_start: redis::frozen_at_start => [redis::FROZEN_AT_START];
        redis_slow: redis::slow => [redis::SLOW];
        redis_full: redis::full => [redis::FULL];
        redis_read_only_and_replaced: redis::failover => [redis::READ_ONLY, redis::FAILOVER];
        redis_emptied: redis::emptied => [redis::FLUSHED];
        redis_whose_clock_is_set_back: redis::set_back => [redis::SET_BACK];
    }
    "Clock" {
        a_clock_that_steps: clock::in_memory_and_on_redis => [clock::AHEAD, clock::BEHIND];
    }
    "Files and disk" {
        a_configuration_that_is_not_valid: files::configuration => [files::CONFIGURATION];
        certificates_that_cannot_be_used: files::certificates => [
            files::CERTIFICATE,
            files::EXPIRED,
        ];
        a_full_disk: files::disk_full => [files::DISK_FULL, files::AUDIT_DISK_FULL];
        a_full_disk_for_each_line: files::disk_full_for_each_line => [
            files::AUDIT_DISK_FULL_DENY,
        ];
        an_audit_log_that_is_blocked: audit::drops => [audit::BLOCKED];
        an_audit_log_that_is_blocked_for_each_line: audit::denies => [audit::BLOCKED_DENY];
    }
    "Load and clients" {
        a_saturated_cpu: load::saturated => [load::SATURATED];
        no_cpu_time: load::stopped => [load::STOPPED];
        clients_that_cancel: load::cancelled => [load::CANCELLED];
        many_connections: load::many_connections => [load::CONNECTIONS];
        #[ignore = "takes half a minute: make test-ignored"]
        ten_thousand_connections: load::ten_thousand_connections => [load::CONNECTIONS];
        rapid_reset: load::rapid_reset => [load::RAPID_RESET];
        a_flood_of_continuation_frames: load::continuation_flood => [load::CONTINUATION];
        slow_headers: load::slow_headers => [load::SLOWLORIS];
    }
}

/// Runs all scenes, one after the other, and prints the rows. `make chaos` calls it.
#[test]
#[ignore = "make chaos: prints the matrix while it runs it"]
fn chaos() {
    // Without the variable all ignored tests are run, and each scene has a test of its own.
    if std::env::var_os("TOLLGATE_CHAOS").is_none() {
        return;
    }
    let mut out = std::io::stdout().lock();
    let (mut heading, mut failed) = ("", 0);
    for scene in SCENES {
        if scene.heading != heading {
            heading = scene.heading;
            writeln!(out, "\n{}", page::title(heading)).unwrap();
        }
        let started = Instant::now();
        let played = catch_unwind(|| scene.play());
        failed += usize::from(played.is_err());
        for row in scene.rows {
            let line = page::summary(row, started.elapsed(), played.is_ok());
            writeln!(out, "{line}").unwrap();
        }
    }
    assert_eq!(failed, 0, "scenes failed");
}
