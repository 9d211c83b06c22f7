//! What a check asks of `admit.lua`, and what its answer means.

use ::redis::{Cmd, RedisWrite, ToRedisArgs};
use tollgate_core::limit::{Answers, Demands, Verdict};

/// A key below a prefix, written without being put together first.
pub(super) struct Key<'a>(&'static str, &'a str);

impl<'a> Key<'a> {
    /// The key of a revocation.
    pub(super) fn revoked(key: &'a str) -> Self {
        Self("{tollgate}:revoked:", key)
    }

    fn bucket(key: &'a str) -> Self {
        Self("{tollgate}:", key)
    }
}

impl ToRedisArgs for Key<'_> {
    fn write_redis_args<W: ?Sized + RedisWrite>(&self, out: &mut W) {
        let Self(prefix, key) = self;
        out.write_arg_fmt(format_args!("{prefix}{key}"));
    }
}

/// How many keys the question has.
pub(super) fn keys(demands: &Demands) -> usize {
    let revocation = demands.principal.as_ref().map_or(0, |principal| {
        let keys = principal.revocation();
        keys.exact().count() + keys.before().count() + keys.foreign.len()
    });
    revocation + demands.charges.len()
}

/// Writes keys and arguments in the order `admit.lua` describes.
pub(super) fn write(cmd: &mut Cmd, demands: &Demands) {
    let keys = demands.principal.as_ref().map(|principal| principal.revocation());
    for (_, key) in keys.iter().flat_map(|keys| keys.exact().chain(keys.before())) {
        cmd.arg(Key::revoked(&key));
    }
    for charge in &demands.charges {
        cmd.arg(Key::bucket(&charge.key));
    }
    for key in keys.iter().flat_map(|keys| &keys.foreign) {
        cmd.arg(key);
    }
    cmd.arg(keys.map_or(0, |keys| keys.exact().count())).arg(keys.map_or(0, |keys| keys.before().count()));
    cmd.arg(demands.charges.len()).arg(keys.map_or(0, |keys| keys.issued_at));
    for charge in &demands.charges {
        cmd.arg(charge.interval).arg(charge.burst).arg(charge.cost);
    }
}

/// Reads the answer; `None` if it is none to this question.
pub(super) fn answers(demands: &Demands, reply: &[i64]) -> Option<Answers> {
    let (first, verdicts) = reply.split_first()?;
    if *first != 0 {
        return revoked(demands, usize::try_from(*first).ok()?.checked_sub(1)?);
    }
    let verdicts: Vec<Verdict> = verdicts.chunks(4).map(verdict).collect::<Option<_>>()?;
    (verdicts.len() == demands.charges.len()).then_some(Answers::Counted(verdicts))
}

/// Which of the keys it was, counted from 0.
fn revoked(demands: &Demands, index: usize) -> Option<Answers> {
    let keys = demands.principal.as_ref()?.revocation();
    let ours: Vec<_> = keys.exact().chain(keys.before()).map(|(kind, _)| kind).collect();
    let foreign_from = ours.len() + demands.charges.len();
    let foreign = foreign_from..foreign_from + keys.foreign.len();
    let kind = ours.get(index).copied().or_else(|| foreign.contains(&index).then_some("foreign"));
    kind.map(Answers::Revoked)
}

fn verdict(numbers: &[i64]) -> Option<Verdict> {
    let [admitted, remaining, retry_after, reset] = numbers else { return None };
    let admitted = match admitted {
        0 => false,
        1 => true,
        _ => return None,
    };
    let retry_after = if *retry_after == -1 { u64::MAX } else { u64::try_from(*retry_after).ok()? };
    Some(Verdict { admitted, remaining: u64::try_from(*remaining).ok()?, retry_after, reset: u64::try_from(*reset).ok()? })
}

#[cfg(test)]
mod tests {
    use tollgate_core::limit::Charge;

    use super::*;

    fn demands() -> Demands {
        let charge = |key: &str| Charge { limit: "l".into(), key: key.into(), interval: 7, burst: 3, cost: 1 };
        Demands { principal: None, charges: vec![charge("rate:l:a"), charge("rate:m:b")] }
    }

    #[test]
    fn the_question_is_laid_out_as_the_script_reads_it() {
        let mut cmd = Cmd::new();
        write(&mut cmd, &demands());
        let text = String::from_utf8(cmd.get_packed_command()).unwrap();
        let words: Vec<&str> = text.split("\r\n").filter(|word| !word.starts_with(['*', '$']) && !word.is_empty()).collect();
        assert_eq!(words, ["{tollgate}:rate:l:a", "{tollgate}:rate:m:b", "0", "0", "2", "0", "7", "3", "1", "7", "3", "1"]);
        assert_eq!(keys(&demands()), 2);
    }

    #[test]
    fn an_answer_to_another_question_is_none() {
        let full = Verdict { admitted: false, remaining: 0, retry_after: u64::MAX, reset: 9 };
        let room = Verdict { admitted: true, remaining: 2, retry_after: 0, reset: 7 };
        let good = [0, 0, 0, -1, 9, 1, 2, 0, 7];
        assert_eq!(answers(&demands(), &good), Some(Answers::Counted(vec![full, room])));
        for bad in [
            &[][..],
            &[0],
            &[1],
            &[-1],
            &[0, 1, 2, 0, 7],
            &[0, 1, 2, 0, 7, 1, 2, 0],
            &[0, 2, 2, 0, 7, 1, 2, 0, 7],
            &[0, 1, -2, 0, 7, 1, 2, 0, 7],
            &[0, 1, 2, -2, 7, 1, 2, 0, 7],
            &[0, 1, 2, 0, 7, 1, 2, 0, 7, 1, 2, 0, 7],
        ] {
            assert_eq!(answers(&demands(), bad), None, "{bad:?}");
        }
    }
}
