//! The load: one thread, all connections, no waiting for anything but the sockets and the next moment to send.

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

/// Nothing at all for so long is a failure of the server.
const SILENCE: Duration = Duration::from_secs(20);

/// How much is sent, and how.
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
    /// Requests a second, evenly, whatever the answers do; latency counts from the moment a request was due. Left out: the next one
    /// is sent when an answer has come.
    #[arg(long)]
    rate: Option<f64>,
    /// Seconds before anything is recorded.
    #[arg(long, default_value_t = 0.3)]
    warm: f64,
    /// Seconds that are recorded.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Send so many and end, whatever the time.
    #[arg(long)]
    requests: Option<u64>,
    /// What every answer has to be: `ok`, or the status of a denial.
    #[arg(long, default_value = "ok")]
    expect: Verdict,
    /// Processes whose CPU time is counted, by process id.
    #[arg(long)]
    watch: Vec<u32>,
}

/// A connection that speaks some protocol.
pub(crate) trait Connection: AsFd {
    /// How many more requests it takes now.
    fn room(&self) -> usize;
    /// Puts a request into what is to be written. `started` comes back with its answer.
    fn send(&mut self, source: &mut Source, started: u64) -> anyhow::Result<()>;
    /// Writes what the socket takes.
    fn write(&mut self) -> anyhow::Result<()>;
    /// Whether something is left to be written.
    fn unwritten(&self) -> bool;
    /// Reads what has come, and calls `answer` for each answer with when its request started.
    fn read(&mut self, answer: &mut dyn FnMut(Verdict, u64)) -> anyhow::Result<()>;
}

impl Load {
    /// Runs the load and returns what was measured.
    pub(crate) fn run<C: Connection>(
        &self,
        mut connections: Vec<C>,
        mut source: Source,
        once: bool,
    ) -> anyhow::Result<Value> {
        // Timers are 50 us late by default.
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
            // With a limit, a twentieth of it warms up.
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
        let (began, before) = began.context("it ended before anything was recorded")?;
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

    /// What every watched process has used, then this thread.
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
