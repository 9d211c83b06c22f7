//! The load: one thread for all connections, which waits for the sockets and for the next time to
//! send only.

use std::{
    num::NonZeroU64,
    os::fd::AsFd,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::{Value, json};

use crate::{
    address::Address,
    message::Source,
    process,
    verdict::{Tally, Verdict},
};

/// The time without any answer after which the server has failed.
const SILENCE: Duration = Duration::from_secs(20);

/// The options of a load.
#[derive(Debug, Args)]
pub(crate) struct Load {
    /// `host:port` or `unix:/path`.
    #[arg(long)]
    pub(crate) target: Address,
    #[arg(long, default_value_t = 1)]
    pub(crate) connections: usize,
    /// Requests in flight, on all connections together.
    #[arg(long, default_value_t = 64)]
    pub(crate) in_flight: usize,
    /// Requests a second, at an even rate that does not depend on the answers. Latency counts from
    /// the time at which a request was due. By default the next request is sent after an answer.
    #[arg(long)]
    rate: Option<f64>,
    /// Seconds before recording starts.
    #[arg(long, default_value_t = 0.3)]
    warm: f64,
    /// Seconds of recording.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// End after this number of requests, instead of after a time.
    #[arg(long)]
    requests: Option<u64>,
    /// The expected answer: `ok`, or the status of a denial.
    #[arg(long, default_value = "ok")]
    expect: Verdict,
    /// Processes whose CPU time is counted, by process id.
    #[arg(long)]
    watch: Vec<u32>,
}

/// A connection of one protocol.
pub(crate) trait Connection: AsFd {
    /// Returns how many more requests can be sent now.
    fn room(&self) -> usize;
    /// Appends a request to the output. Its answer is reported with `started`.
    fn send(&mut self, source: &mut Source, started: u64) -> anyhow::Result<()>;
    /// Writes output until the socket is full.
    fn write(&mut self) -> anyhow::Result<()>;
    /// Returns whether output is left.
    fn unwritten(&self) -> bool;
    /// Reads input, and calls `answer` for each answer with the start of its request.
    fn read(&mut self, answer: &mut dyn FnMut(Verdict, u64)) -> anyhow::Result<()>;
}

impl Load {
    /// Runs the load and returns the measured values.
    pub(crate) fn run<C: Connection>(
        &self,
        mut connections: Vec<C>,
        mut source: Source,
        once: bool,
    ) -> anyhow::Result<Value> {
        // The kernel delays timers by 50 us by default.
        rustix::thread::set_current_timer_slack(NonZeroU64::new(1)).context("timer slack")?;
        let limit = match (self.requests, once) {
            (Some(requests), _) => Some(requests),
            (None, true) => Some(source.distinct() as u64),
            (None, false) => None,
        };
        let mut tally = Tally::new(self.expect);
        let clock = Instant::now();
        #[expect(clippy::cast_possible_truncation, reason = "a run is not 500 years long")]
        let now = || clock.elapsed().as_nanos() as u64;
        let nanos =
            |seconds: f64| Duration::try_from_secs_f64(seconds).map(|span| span.as_nanos() as u64);
        let warm = nanos(self.warm)?;
        let end = warm + nanos(self.seconds)?;
        let interval = self.rate.map(|rate| nanos(1.0 / rate)).transpose()?;
        let (mut sent, mut due, mut in_flight) = (0, 0, 0usize);
        let mut began: Option<(u64, Vec<u64>)> = None;
        let mut heard = Instant::now();
        let mut next = 0;
        let ended = loop {
            let at = now();
            let spent = limit.is_some_and(|limit| tally.all >= limit);
            // With a limit, the first twentieth of it is not recorded.
            let warmed = limit.map_or(at >= warm, |limit| tally.all >= limit / 20);
            if began.is_none() && warmed {
                tally.recording = true;
                began = Some((at, self.used()?));
            }
            if spent || (limit.is_none() && at >= end) {
                break at;
            }
            let mut full = 0;
            while in_flight < self.in_flight
                && full < connections.len()
                && limit.is_none_or(|limit| sent < limit)
            {
                if interval.is_some() && due > at {
                    break;
                }
                next = (next + 1) % connections.len();
                let Some(connection) =
                    connections.get_mut(next).filter(|connection| connection.room() > 0)
                else {
                    full += 1;
                    continue;
                };
                full = 0;
                connection.send(&mut source, if interval.is_some() { due } else { at })?;
                due += interval.unwrap_or(0);
                sent += 1;
                in_flight += 1;
            }
            for connection in &mut connections {
                if connection.unwritten() {
                    connection.write()?;
                }
            }
            let wait = match interval {
                Some(_) if in_flight < self.in_flight => due.saturating_sub(now()),
                _ => 50_000_000,
            };
            wait_for(&connections, wait)?;
            let at = now();
            let before = tally.all;
            for connection in &mut connections {
                connection.read(&mut |verdict, started| {
                    in_flight -= 1;
                    tally.answer(verdict, at - started);
                })?;
            }
            if tally.all > before {
                heard = Instant::now();
            } else if heard.elapsed() > SILENCE && in_flight > 0 {
                bail!("no answer for {} s, with {in_flight} requests in flight", SILENCE.as_secs());
            }
        };
        let (began, before) = began.context("the load ended before recording started")?;
        let after = self.used()?;
        tally.check()?;
        ensure!(tally.recorded() > 0, "no answer was recorded");
        #[expect(clippy::cast_precision_loss, reason = "seconds")]
        let seconds = (ended - began) as f64 / 1e9;
        let mut found = tally.json(seconds);
        #[expect(clippy::cast_precision_loss, reason = "microseconds a request")]
        let cpu: Vec<f64> = after
            .iter()
            .zip(&before)
            .map(|(after, before)| {
                (after.saturating_sub(*before)) as f64 / 1000.0 / tally.recorded() as f64
            })
            .collect();
        if let Some(found) = found.as_object_mut() {
            found.insert("cpu_us".into(), json!(cpu));
            found.insert("message_bytes".into(), json!(source.len()));
        }
        Ok(found)
    }

    /// Returns the CPU time of every watched process, then of this thread.
    fn used(&self) -> anyhow::Result<Vec<u64>> {
        self.watch
            .iter()
            .map(|process| process::on_core(*process))
            .chain([process::of_this_thread()])
            .collect()
    }
}

fn wait_for<C: Connection>(connections: &[C], nanos: u64) -> anyhow::Result<()> {
    let mut sockets: Vec<PollFd<'_>> = connections
        .iter()
        .map(|connection| {
            let writable = if connection.unwritten() { PollFlags::OUT } else { PollFlags::empty() };
            PollFd::new(connection, PollFlags::IN | writable)
        })
        .collect();
    let timeout = Timespec {
        tv_sec: i64::try_from(nanos / 1_000_000_000)?,
        tv_nsec: i64::try_from(nanos % 1_000_000_000)?,
    };
    match poll(&mut sockets, Some(&timeout)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
