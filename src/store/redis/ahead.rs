//! Checks whose limits are leased: what is held is spent here, and only the rest is asked for.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use ::redis::Value;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tollgate_core::{
    admission::{AdmitRequest, AdmitResponse, Outage},
    limit::{Charge, Verdict, lease::LeaseGrant},
};

use super::{
    Redis,
    question::{Answered, Asked, Key},
};
use crate::store::leases::{Back, Leases, Part};

/// How often units that nobody asks for are given back.
const SWEEP: Duration = Duration::from_millis(250);

/// Buckets given back in one call.
const TOGETHER: usize = 500;

impl Redis {
    /// Asks what cannot be answered here; nobody, if everything can.
    pub(super) async fn ask_leased(&self, demands: AdmitRequest) -> Result<AdmitResponse, Outage> {
        let parts = self.leases.take(&demands.charges);
        for (charge, part) in demands.charges.iter().zip(&parts) {
            if let Part::Taken(_, ahead @ 1..) = part {
                self.ask_ahead(charge, *ahead);
            }
        }
        let known = demands.revocation.is_none()
            && parts.iter().all(|part| matches!(part, Part::Taken(..) | Part::Refused(_)));
        let mut check = Check { leases: &self.leases, charges: &demands.charges, parts };
        if known {
            return Ok(check.answered_here());
        }
        check.ask_for_all();
        let asked = check.question(&demands);
        let sent = self.leases.now();
        let answered = self.send(asked).await;
        check.answered(sent, answered)
    }

    /// Asks for units that will be needed, while those that are held are spent.
    fn ask_ahead(&self, charge: &Charge, want: u64) {
        let Some(line) = self.link.ready() else { return self.leases.lost(charge.bucket, want) };
        let (leases, deadline, charge) = (Arc::clone(&self.leases), self.deadline, charge.clone());
        tokio::spawn(async move {
            let sent = leases.now();
            let demands = AdmitRequest { revocation: None, charges: vec![charge.clone()] };
            match timeout(deadline, line.ask(Asked { demands, wants: vec![want] })).await {
                Ok(Ok(Answered { answers: AdmitResponse::Counted(verdicts), taken })) => {
                    match (&*verdicts, &*taken) {
                        ([said], [given]) if said.admitted => {
                            let grant =
                                LeaseGrant { requested: want, granted: *given, consumed: 0 };
                            leases.given(charge.bucket, sent, grant, *said)
                        }
                        ([said], _) => leases.refused(charge.bucket, want, *said),
                        _ => leases.lost(charge.bucket, want),
                    }
                }
                Ok(_) => leases.lost(charge.bucket, want),
                Err(_elapsed) => {
                    line.pulse().silent();
                    leases.lost(charge.bucket, want);
                }
            }
        });
    }

    /// Gives back what nobody may spend any more; with `closed`, all there is.
    pub(super) async fn give_back(&self, closed: bool) {
        let back = self.leases.expired(closed).await;
        for part in back.chunks(TOGETHER) {
            // Units that cannot be given back come back with time, as the bucket fills.
            let _lost = self.give_back_some(part).await;
        }
    }

    async fn give_back_some(&self, back: &[Back]) -> Result<(), Outage> {
        self.unhurried(|mut connection| async move {
            let reply = self.scripts.give_back.run(&mut connection, back.len(), |cmd| {
                for Back { key, .. } in back {
                    cmd.arg(Key::bucket(key));
                }
                for Back { micros, .. } in back {
                    cmd.arg(*micros);
                }
            });
            reply.await.map(|_: Value| ())
        })
        .await
    }
}

/// Gives back in time, until `stop` or until the store is dropped.
pub(in crate::store) fn keep(store: Weak<Redis>, stop: CancellationToken) {
    tokio::spawn(async move {
        stop.run_until_cancelled(async {
            while let Some(store) = store.upgrade() {
                if store.leases.held().0 > 0 {
                    store.give_back(false).await;
                }
                drop(store);
                sleep(SWEEP).await;
            }
        })
        .await
    });
}

/// The charges of one check and what became of them. Dropped undecided, its units are spent: what was asked may be charged.
struct Check<'a> {
    leases: &'a Leases,
    charges: &'a [Charge],
    parts: Vec<Part>,
}

impl Check<'_> {
    /// All or nothing, of what is held.
    fn answered_here(mut self) -> AdmitResponse {
        let parts = std::mem::take(&mut self.parts);
        let all = parts.iter().all(|part| matches!(part, Part::Taken(..)));
        let verdicts = self.charges.iter().zip(parts).filter_map(|(charge, part)| match part {
            Part::Taken(verdict, _) => Some(self.decided(charge, verdict, all)),
            Part::Refused(verdict) => Some(verdict),
            Part::Exact | Part::Asked(_) => None,
        });
        AdmitResponse::Counted(verdicts.collect())
    }

    /// Units that were taken are spent, or back.
    fn decided(&self, charge: &Charge, verdict: Verdict, spent: bool) -> Verdict {
        self.leases.decided(charge, spent);
        let back = if spent { 0 } else { charge.cost };
        Verdict { remaining: (verdict.remaining + back).min(charge.burst), ..verdict }
    }

    /// As Redis is asked at all, it decides on the buckets that had no room a moment ago, too.
    fn ask_for_all(&mut self) {
        for (charge, part) in self.charges.iter().zip(&mut self.parts) {
            if let Part::Refused(_) = part {
                *part = self.leases.ask_anyway(charge);
            }
        }
    }

    fn question(&self, demands: &AdmitRequest) -> Asked {
        let asked = self.charges.iter().zip(&self.parts).filter_map(|(charge, part)| match part {
            Part::Exact => Some((Charge { lease: None, ..charge.clone() }, charge.cost)),
            Part::Asked(want) => Some((charge.clone(), *want)),
            Part::Taken(..) | Part::Refused(_) => None,
        });
        let (charges, wants) = asked.unzip();
        Asked { demands: AdmitRequest { revocation: demands.revocation.clone(), charges }, wants }
    }

    /// Settles by what Redis said.
    fn answered(
        mut self,
        sent: u64,
        answered: Result<Answered, Outage>,
    ) -> Result<AdmitResponse, Outage> {
        let Answered { answers, taken } = answered?;
        let parts = std::mem::take(&mut self.parts);
        let AdmitResponse::Counted(said) = answers else {
            // Nothing was charged.
            for (charge, part) in self.charges.iter().zip(parts) {
                match part {
                    Part::Asked(asked) => self.leases.lost(charge.bucket, asked),
                    Part::Taken(verdict, _) => drop(self.decided(charge, verdict, false)),
                    Part::Exact | Part::Refused(_) => {}
                }
            }
            return Ok(answers);
        };
        let all = said.iter().all(|verdict| verdict.admitted);
        let mut said = said.into_iter().zip(taken.into_iter().chain(std::iter::repeat(0)));
        let verdicts = self.charges.iter().zip(parts).map(|(charge, part)| {
            Some(match part {
                Part::Taken(verdict, _) => self.decided(charge, verdict, all),
                Part::Exact | Part::Refused(_) => said.next()?.0,
                Part::Asked(asked) => {
                    let (verdict, given) = said.next()?;
                    match (all, verdict.admitted) {
                        (true, _) => self.leases.given(
                            charge.bucket,
                            sent,
                            LeaseGrant { requested: asked, granted: given, consumed: charge.cost },
                            verdict,
                        ),
                        (false, true) => self.leases.lost(charge.bucket, asked),
                        (false, false) => self.leases.refused(charge.bucket, asked, verdict),
                    }
                    let held = if all { given.saturating_sub(charge.cost) } else { 0 };
                    Verdict { remaining: verdict.remaining.saturating_add(held), ..verdict }
                }
            })
        });
        verdicts.collect::<Option<_>>().map(AdmitResponse::Counted).ok_or(Outage::Refused)
    }
}

impl Drop for Check<'_> {
    fn drop(&mut self) {
        for (charge, part) in self.charges.iter().zip(&self.parts) {
            match part {
                Part::Asked(asked) => self.leases.lost(charge.bucket, *asked),
                Part::Taken(..) => self.leases.decided(charge, true),
                Part::Exact | Part::Refused(_) => {}
            }
        }
    }
}
