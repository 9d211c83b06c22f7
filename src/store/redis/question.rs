//! What checks ask of `admit.lua`, and what its answer means.

use std::io::Write as _;

use ::redis::{Cmd, RedisWrite, ToRedisArgs};
use tollgate_core::{
    admission::{AdmitRequest, AdmitResponse},
    limit::Verdict,
};

use super::packed::Packed;

/// A key below a prefix, written without being put together first.
pub(super) struct Key<'a>(&'static str, &'a [u8]);

impl<'a> Key<'a> {
    /// The key of a revocation.
    pub(super) fn revoked(key: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        Self("{tollgate}:revoked:", key.as_ref())
    }

    /// The key of a bucket.
    pub(super) fn bucket(key: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        Self("{tollgate}:", key.as_ref())
    }
}

impl ToRedisArgs for Key<'_> {
    fn write_redis_args<W: ?Sized + RedisWrite>(&self, out: &mut W) {
        let Self(prefix, key) = self;
        let mut arg = out.writer_for_next_arg();
        for part in [prefix.as_bytes(), key] {
            // Into memory, which does not fail.
            let _written = arg.write_all(part);
        }
    }
}

/// What one check asks.
pub(in crate::store) struct Asked {
    pub(in crate::store) demands: AdmitRequest,
    /// For each charge how many units may be taken to be held; for those left out, no more than it costs.
    pub(in crate::store) wants: Vec<u64>,
}

impl Asked {
    /// A check that takes what it costs.
    pub(in crate::store) fn exactly(demands: AdmitRequest) -> Self {
        Self { demands, wants: Vec::new() }
    }

    /// How many keys it has.
    pub(super) fn keys(&self) -> usize {
        let (exact, before, foreign) = revocation(&self.demands);
        exact + before + foreign + self.demands.charges.len()
    }
}

/// What one check is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::store) struct Answered {
    pub(in crate::store) answers: AdmitResponse,
    /// How many units each charge took, if all were admitted.
    pub(in crate::store) taken: Vec<u64>,
}

fn revocation(demands: &AdmitRequest) -> (usize, usize, usize) {
    demands.revocation.as_ref().map_or((0, 0, 0), |keys| {
        (keys.exact_entries().count(), keys.before_entries().count(), keys.foreign.len())
    })
}

/// Writes keys and numbers of some checks in the order `admit.lua` describes.
pub(super) fn write<'a>(cmd: &mut Cmd, checks: impl ExactSizeIterator<Item = &'a Asked> + Clone) {
    let (mut ours, mut key) = (0, Vec::new());
    let mut numbers = Packed::with_capacity(16 * checks.len());
    for Asked { demands, wants } in checks.clone() {
        let keys = demands.revocation.as_ref();
        let (exact, before, foreign) = revocation(demands);
        for mark in keys.iter().flat_map(|keys| keys.exact_entries().chain(keys.before_entries())) {
            key.clear();
            mark.write(&mut key);
            cmd.arg(Key::revoked(&key));
        }
        for count in [exact, before, demands.charges.len(), foreign] {
            numbers.push_count(count);
        }
        numbers.push(keys.map_or(0, |keys| keys.issued_at));
        for (n, charge) in demands.charges.iter().enumerate() {
            key.clear();
            charge.bucket.write_key(&charge.limit, &mut key);
            cmd.arg(Key::bucket(&key));
            let want = wants.get(n).map_or(charge.cost, |want| charge.cost.max(*want));
            for number in [charge.interval, charge.burst, charge.cost, want] {
                numbers.push(number);
            }
        }
        ours += exact + before + demands.charges.len();
    }
    for keys in checks.clone().filter_map(|asked| asked.demands.revocation.as_ref()) {
        for key in &keys.foreign {
            cmd.arg(key);
        }
    }
    cmd.arg(checks.len()).arg(ours).arg(numbers);
}

/// What the script says of one check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// This.
    Answers(Answered),
    /// Something that is stored is no number.
    Unreadable,
}

/// Reads the answer to the next check; `None` if it is none to this question.
pub(super) fn next_answer(
    demands: &AdmitRequest,
    reply: &mut impl Iterator<Item = i64>,
) -> Option<Said> {
    match reply.next()? {
        0 => {}
        -1 => return Some(Said::Unreadable),
        place => {
            let answers = revoked(demands, usize::try_from(place).ok()?.checked_sub(1)?)?;
            return Some(Said::Answers(Answered { answers, taken: Vec::new() }));
        }
    }
    let count = demands.charges.len();
    let (mut verdicts, mut taken) = (Vec::with_capacity(count), Vec::new());
    for charge in &demands.charges {
        let units = reply.next()?;
        verdicts.push(verdict([units, reply.next()?, reply.next()?, reply.next()?])?);
        if charge.lease.is_some() {
            taken.resize(verdicts.len() - 1, 0);
            taken.push(u64::try_from(units).ok()?);
        }
    }
    Some(Said::Answers(Answered { answers: AdmitResponse::Counted(verdicts), taken }))
}

/// Which of the keys it was, counted from 0.
fn revoked(demands: &AdmitRequest, index: usize) -> Option<AdmitResponse> {
    let keys = demands.revocation.as_ref()?;
    let ours = keys.exact_entries().chain(keys.before_entries()).map(|mark| mark.kind().label());
    let foreign_from =
        keys.exact_entries().count() + keys.before_entries().count() + demands.charges.len();
    let foreign = foreign_from..foreign_from + keys.foreign.len();
    let kind = { ours }.nth(index).or_else(|| foreign.contains(&index).then_some("foreign"));
    kind.map(AdmitResponse::Revoked)
}

fn verdict([units, remaining, retry_after, reset]: [i64; 4]) -> Option<Verdict> {
    let admitted = u64::try_from(units).ok()? > 0;
    let retry_after = if retry_after == -1 { u64::MAX } else { u64::try_from(retry_after).ok()? };
    Some(Verdict {
        admitted,
        remaining: u64::try_from(remaining).ok()?,
        retry_after,
        reset: u64::try_from(reset).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use ::redis::Arg;
    use tollgate_core::limit::{Charge, lease::LeaseTerms};

    use super::*;

    fn demands() -> AdmitRequest {
        let charge = |limit: &str, bucket: &str, lease| Charge {
            limit: limit.into(),
            bucket: bucket.into(),
            interval: 7,
            burst: 3,
            cost: 1,
            lease,
        };
        let terms = LeaseTerms { slice: 2, life: 9 };
        AdmitRequest {
            revocation: None,
            charges: vec![charge("l", "a", None), charge("m", "b", Some(terms))],
        }
    }

    #[test]
    fn the_question_is_laid_out_as_the_script_reads_it() {
        let mut cmd = Cmd::new();
        let both = Asked { demands: demands(), wants: vec![1, 2] };
        let one = Asked::exactly(AdmitRequest {
            revocation: None,
            charges: demands().charges[..1].to_vec(),
        });
        assert_eq!((both.keys(), one.keys()), (2, 1));
        write(&mut cmd, [both, one].iter());
        let words = cmd.args_iter().map(|arg| if let Arg::Simple(word) = arg { word } else { b"" });
        let words: Vec<&[u8]> = words.collect();
        // The first half of the SHA-256 of `a`, and of `b`.
        let a = "{tollgate}:rate:l:ca978112ca1bbdcafac231b39a23dc4d";
        let b = "{tollgate}:rate:m:3e23e8160039594a33894f6564e1b134";
        assert_eq!(words[..5], [a, b, a, "2", "3"].map(str::as_bytes));
        let list = [0, 0, 2, 0, 0, 7, 3, 1, 1, 7, 3, 1, 2, 0, 0, 1, 0, 0, 7, 3, 1, 1];
        assert_eq!(words[5..], [[&[0xdd, 0, 0, 0, 22][..], &list].concat()]);
    }

    #[test]
    fn an_answer_to_another_question_is_none() {
        let full = Verdict { admitted: false, remaining: 0, retry_after: u64::MAX, reset: 9 };
        let room = Verdict { admitted: true, remaining: 2, retry_after: 0, reset: 7 };
        let read = |reply: &[i64]| next_answer(&demands(), &mut reply.iter().copied());
        let answered =
            Answered { answers: AdmitResponse::Counted(vec![full, room]), taken: vec![0, 2] };
        assert_eq!(read(&[0, 0, 0, -1, 9, 2, 2, 0, 7]), Some(Said::Answers(answered)));
        assert_eq!(read(&[-1]), Some(Said::Unreadable));
        for bad in [
            &[][..],
            &[0],
            &[1],
            &[-2],
            &[0, 1, 2, 0, 7],
            &[0, 1, 2, 0, 7, 1, 2, 0],
            &[0, -1, 2, 0, 7, 1, 2, 0, 7],
            &[0, 1, -2, 0, 7, 1, 2, 0, 7],
            &[0, 1, 2, -2, 7, 1, 2, 0, 7],
        ] {
            assert_eq!(read(bad), None, "{bad:?}");
        }
    }
}
