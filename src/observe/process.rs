//! The state of this process, as the kernel reports it below `/proc/self`: the metrics `process_*`
//! under the names that the Prometheus client libraries share.

use std::{fmt, fs};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, NoLabelSet},
    metrics::MetricType,
    registry::Unit,
};
use tollgate_core::time::Timestamp;

/// The unit of times in `/proc/self/stat`, per second: `USER_HZ`, which is 100 on every
/// architecture that Tollgate is built for (proc(5)).
const USER_HZ: f64 = 100.0;

/// What the kernel reports of this process. A value that it does not report is absent.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct ProcessStatus {
    cpu_seconds: Option<f64>,
    resident_bytes: Option<u64>,
    virtual_bytes: Option<u64>,
    open_fds: Option<u64>,
    max_fds: Option<u64>,
}

impl ProcessStatus {
    /// Reads the files of this process. It blocks.
    pub(super) fn read() -> Self {
        let file = |name: &str| fs::read_to_string(format!("/proc/self/{name}")).ok();
        let (stat, status, limits) = (file("stat"), file("status"), file("limits"));
        Self {
            cpu_seconds: stat.as_deref().and_then(cpu_seconds),
            resident_bytes: status.as_deref().and_then(|text| kilobytes(text, "VmRSS:")),
            virtual_bytes: status.as_deref().and_then(|text| kilobytes(text, "VmSize:")),
            open_fds: fs::read_dir("/proc/self/fd").ok().map(|fds| fds.count() as u64),
            max_fds: limits.as_deref().and_then(max_fds),
        }
    }
}

/// The processor time of a process, user and system, from `/proc/self/stat`.
fn cpu_seconds(stat: &str) -> Option<f64> {
    // The name of the program, in parentheses, may contain spaces and parentheses.
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    // `utime` and `stime` are the fields 14 and 15; the rest begins with field 3.
    let user: u32 = fields.nth(11)?.parse().ok()?;
    let system: u32 = fields.next()?.parse().ok()?;
    Some((f64::from(user) + f64::from(system)) / USER_HZ)
}

/// A line of `/proc/self/status` in kilobytes, as bytes.
fn kilobytes(status: &str, name: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix(name))?;
    value.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}

/// The soft limit of open files; `None` where there is none.
fn max_fds(limits: &str) -> Option<u64> {
    let values = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    values.split_whitespace().next()?.parse().ok()
}

/// The metrics of one process.
#[derive(Debug)]
pub(super) struct ProcessMetrics {
    pub(super) started: Timestamp,
    pub(super) status: ProcessStatus,
}

impl Collector for ProcessMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let encoder = &mut encoder;
        if let Some(seconds) = self.status.cpu_seconds {
            let help = "Processor time, user and system.";
            let unit = Some(&Unit::Seconds);
            encoder
                .encode_descriptor("process_cpu", help, unit, MetricType::Counter)?
                .encode_counter::<NoLabelSet, _, f64>(&seconds, None)?;
        }
        let gauges = [
            ("process_resident_memory", "Resident memory.", self.status.resident_bytes, true),
            ("process_virtual_memory", "Virtual memory.", self.status.virtual_bytes, true),
            ("process_open_fds", "Open file descriptors.", self.status.open_fds, false),
            ("process_max_fds", "Most file descriptors.", self.status.max_fds, false),
        ];
        for (name, help, value, bytes) in gauges {
            if let Some(value) = value {
                let unit = bytes.then_some(&Unit::Bytes);
                encoder
                    .encode_descriptor(name, help, unit, MetricType::Gauge)?
                    .encode_gauge(&value)?;
            }
        }
        let help = "The start of the process, since 1970.";
        encoder
            .encode_descriptor("process_start_time", help, Some(&Unit::Seconds), MetricType::Gauge)?
            .encode_gauge(&self.started.secs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_found_behind_any_name_of_a_program() {
        let rest = "S 1 2 3 4 5 6 7 8 9 10 150 25 0 0 20 0 9 0 4711";
        for name in ["tollgate", "a b", ") (x) "] {
            assert_eq!(cpu_seconds(&format!("12 ({name}) {rest}")), Some(1.75), "{name}");
        }
        assert_eq!(cpu_seconds("12 (tollgate) S 1"), None);
    }

    #[test]
    fn sizes_and_limits_are_read() {
        let status = "Name:\tx\nVmSize:\t  204800 kB\nVmRSS:\t   10240 kB\n";
        assert_eq!(kilobytes(status, "VmRSS:"), Some(10 << 20));
        assert_eq!(kilobytes(status, "VmSize:"), Some(200 << 20));
        assert_eq!(kilobytes(status, "VmSwap:"), None);
        let limits =
            "Limit  Soft Limit  Hard Limit  Units\nMax open files   1024   524288  files\n";
        assert_eq!(max_fds(limits), Some(1024));
        assert_eq!(max_fds("Max open files   unlimited  unlimited  files\n"), None);
    }

    #[test]
    fn this_process_has_all_of_them() {
        let status = ProcessStatus::read();
        assert!(status.cpu_seconds.is_some(), "{status:?}");
        assert!(status.resident_bytes.is_some_and(|bytes| bytes > 1 << 20), "{status:?}");
        assert!(status.virtual_bytes >= status.resident_bytes, "{status:?}");
        assert!(status.open_fds.is_some_and(|fds| fds >= 3), "{status:?}");
    }
}
