//! The report of an audit: each operation of the server and of its preset, the preset's rating, and
//! the policy's answer.

use std::{
    collections::BTreeSet,
    io::Write,
    net::IpAddr,
    time::{SystemTime, UNIX_EPOCH},
};

use serde_json::{Value, json};
use tollgate_core::{
    check::{NoHooks, Prepared, prepare},
    decision::Decision,
    request::{Headers, RawBody, RawRequest},
    route::preset::{Danger, Preset},
    snapshot::Snapshot,
    time::Timestamp,
};

use super::{
    members::UnknownMember,
    server::{Offer, Operation},
};
use crate::cli::{paint::Paint, printable::printable};

/// The report of one audit.
#[derive(Debug)]
pub(super) struct Report {
    title: String,
    findings: Vec<Finding>,
    /// Members of requests that no table lists; the policy denies them.
    members: BTreeSet<UnknownMember>,
}

/// One operation of the report.
#[derive(Debug)]
struct Finding {
    operation: Operation,
    /// Whether the server's document lists it.
    offered: bool,
    /// The preset's entry for it.
    known: Option<PresetMatch>,
    answer: Answer,
}

/// A preset's entry for an operation.
#[derive(Debug)]
struct PresetMatch {
    preset: String,
    danger: Danger,
    scopes: Vec<String>,
    risk: String,
}

/// The policy's answer without a credential.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Answer {
    /// The request passes, as far as the policy can tell without a store.
    Open {
        /// The route that lets it pass.
        route: String,
        /// The host of the request.
        host: String,
    },
    /// The request is denied.
    Denied(&'static str),
}

impl Report {
    /// Lists the server's operations and those of the presets, with the policy's answer to each for
    /// every host.
    pub(super) fn of(
        offer: &Offer,
        members: BTreeSet<UnknownMember>,
        presets: &[Preset],
        snapshot: &Snapshot,
        hosts: &[String],
    ) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let now = Timestamp::from_secs(now);
        let finding = |operation: Operation, offered: bool| Finding {
            known: known(presets, &operation),
            answer: answer(&operation, snapshot, hosts, now),
            operation,
            offered,
        };
        let mut findings: Vec<Finding> =
            offer.operations.iter().map(|operation| finding(operation.clone(), true)).collect();
        // Operations that the document hides are included: WebSockets, mounted applications, routes
        // with `include_in_schema=False`.
        let offered: Vec<(String, String)> = offer
            .operations
            .iter()
            .map(|operation| (operation.method.clone(), operation.sample()))
            .collect();
        for route in presets.iter().flat_map(|preset| &preset.routes) {
            for (method, path) in route
                .methods
                .iter()
                .flat_map(|method| route.paths.iter().map(move |path| (method, path)))
            {
                let operation = Operation {
                    path: path.strip_suffix("/*").unwrap_or(path).to_owned(),
                    method: method.clone(),
                };
                if !offered.contains(&(operation.method.clone(), operation.sample())) {
                    findings.push(finding(operation, false));
                }
            }
        }
        findings.sort_by(|a, b| {
            (!a.is_dangerous(), !a.offered, &a.operation).cmp(&(
                !b.is_dangerous(),
                !b.offered,
                &b.operation,
            ))
        });
        Self { title: offer.title.clone(), findings, members }
    }

    /// Whether an operation is open that must not be.
    pub(super) fn is_dangerous(&self) -> bool {
        self.findings.iter().any(Finding::is_dangerous)
    }

    fn count(&self, which: impl Fn(&&Finding) -> bool) -> usize {
        self.findings.iter().filter(which).count()
    }

    /// Prints the verdict and the counts, then what is open, then what needs a decision, then the
    /// rest.
    pub(super) fn text(&self, url: &str, paint: Paint, out: &mut dyn Write) -> anyhow::Result<()> {
        writeln!(out, "{} at {}", printable(&self.title), printable(url))?;
        match self.count(|finding| finding.is_dangerous()) {
            0 => writeln!(out, "{}", paint.good("nothing dangerous is open without a credential"))?,
            count => {
                let count = paint.bad(format!(
                    "{count} dangerous or unlisted operations are open without a credential"
                ));
                writeln!(out, "{count}, marked !!")?;
            }
        }
        writeln!(
            out,
            "{} operations offered: {} listed, {} unlisted; {} more listed that the document does not show",
            self.count(|finding| finding.offered),
            self.count(|finding| finding.offered && finding.known.is_some()),
            self.count(|finding| finding.offered && finding.known.is_none()),
            self.count(|finding| !finding.offered),
        )?;
        self.section("open without a credential:", paint, out, Finding::is_open)?;
        self.section(
            "unlisted, and denied: a rule of your own opens one:",
            paint,
            out,
            |finding| !finding.is_open() && finding.known.is_none(),
        )?;
        if !self.members.is_empty() {
            writeln!(
                out,
                "\n{} members of requests are not known to the preset, which denies them; `fields.allow` opens one:",
                self.members.len()
            )?;
            for UnknownMember { operation, place } in &self.members {
                let (path, place) = (printable(&operation.path), printable(place));
                writeln!(out, "   {:<7} {path:<44} {place}", operation.method)?;
            }
        }
        self.section("listed, and closed without a credential:", paint, out, |finding| {
            !finding.is_open() && finding.known.is_some()
        })
    }

    /// Prints the operations of one kind below a title, if there are any.
    fn section(
        &self,
        title: &str,
        paint: Paint,
        out: &mut dyn Write,
        which: impl Fn(&Finding) -> bool,
    ) -> anyhow::Result<()> {
        let findings: Vec<&Finding> =
            self.findings.iter().filter(|finding| which(finding)).collect();
        if findings.is_empty() {
            return Ok(());
        }
        writeln!(out, "\n{title}")?;
        for finding in findings {
            let mark = if finding.is_dangerous() { paint.bad("!!") } else { paint.dim("  ") };
            let Operation { path, method } = &finding.operation;
            let path = printable(path);
            writeln!(
                out,
                "{mark} {method:<7} {path:<44} {:<10} {:<9} {}",
                finding.known(),
                finding.level(),
                printable(&finding.shown())
            )?;
            if let Some(known) = finding.known.as_ref().filter(|_| finding.is_dangerous()) {
                writeln!(
                    out,
                    "           {}: needs {}. {}",
                    known.preset,
                    known.scopes.join(" and "),
                    known.risk
                )?;
            }
        }
        Ok(())
    }

    /// Returns the report as JSON.
    pub(super) fn json(&self, url: &str) -> Value {
        let operations: Vec<Value> = self.findings.iter().map(Finding::json).collect();
        let members: Vec<Value> = self
            .members
            .iter()
            .map(|UnknownMember { operation, place }| {
                json!({ "method": operation.method, "path": operation.path, "member": place })
            })
            .collect();
        json!({
            "url": url,
            "server": self.title,
            "dangerous": self.is_dangerous(),
            "operations": operations,
            "unknown_members": members,
        })
    }
}

impl Finding {
    /// Whether a request without a credential passes.
    fn is_open(&self) -> bool {
        matches!(self.answer, Answer::Open { .. })
    }

    /// Whether the operation is open and neither harmless nor a mere leak. An operation that no
    /// preset lists may do anything.
    fn is_dangerous(&self) -> bool {
        let harmless = self.known.as_ref().is_some_and(|known| known.danger < Danger::Serious);
        self.is_open() && !harmless
    }

    fn known(&self) -> &'static str {
        match (self.known.is_some(), self.offered) {
            (true, true) => "listed",
            (true, false) => "not shown",
            (false, _) => "unlisted",
        }
    }

    fn level(&self) -> &'static str {
        match self.known.as_ref().map(|known| known.danger) {
            None => "unknown",
            Some(Danger::None) => "harmless",
            Some(Danger::Leak) => "leak",
            Some(Danger::Serious) => "dangerous",
        }
    }

    fn shown(&self) -> String {
        match &self.answer {
            Answer::Open { route, host } => format!("OPEN by `{route}` (host {host})"),
            Answer::Denied(reason) => format!("denied: {reason}"),
        }
    }

    fn json(&self) -> Value {
        let (open, route, host, reason) = match &self.answer {
            Answer::Open { route, host } => (true, Some(route), Some(host), None),
            Answer::Denied(reason) => (false, None, None, Some(reason)),
        };
        json!({
            "method": self.operation.method,
            "path": self.operation.path,
            "offered": self.offered,
            "listed": self.known.is_some(),
            "level": self.level(),
            "scopes": self.known.as_ref().map(|known| &known.scopes),
            "risk": self.known.as_ref().map(|known| &known.risk),
            "open": open,
            "route": route,
            "host": host,
            "reason": reason,
            "dangerous": self.is_dangerous(),
        })
    }
}

/// Returns the entry of the presets; of several, the most dangerous.
fn known(presets: &[Preset], operation: &Operation) -> Option<PresetMatch> {
    let found = presets.iter().filter_map(|preset| {
        let (route, _) = preset.find(&operation.method, &operation.sample())?;
        Some(PresetMatch {
            preset: preset.name.clone(),
            danger: route.danger(),
            scopes: route.scopes.clone(),
            risk: route.risk.clone(),
        })
    });
    found.max_by_key(|known| known.danger)
}

/// Returns the answer to a request without a credential over https, for the first host for which it
/// is open.
fn answer(operation: &Operation, snapshot: &Snapshot, hosts: &[String], now: Timestamp) -> Answer {
    let path = operation.sample();
    let mut denied = Answer::Denied("no_route");
    for host in hosts {
        let raw = RawRequest {
            method: operation.method.as_bytes(),
            scheme: b"https",
            host: host.as_bytes(),
            path: path.as_bytes(),
            headers: Headers::default(),
            // Without an address, a limit by address would deny an open operation.
            address: Some(IpAddr::from([192, 0, 2, 1])),
            peer_certificate: b"",
            body: RawBody::None,
        };
        match prepare(snapshot, raw, now, &mut NoHooks) {
            Prepared::Pending(pending) => {
                return Answer::Open { route: pending.route().name.clone(), host: host.clone() };
            }
            Prepared::Decided(outcome) => {
                if let (Decision::Deny(denial), Answer::Denied("no_route")) =
                    (outcome.decision, &denied)
                {
                    denied = Answer::Denied(denial.reason.code());
                }
            }
        }
    }
    denied
}
