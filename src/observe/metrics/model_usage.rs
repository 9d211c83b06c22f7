//! The tokens of settled requests, by model: what is compared with the counters of the servers; and
//! their costs.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use tollgate_core::{
    limit::{model_tag::ModelTag, settled_cost::SettledCost, settled_tokens::SettledTokens},
    policy::Policy,
};

use super::series::OTHER_MODEL;

/// The labels of the kinds of tokens that a server reported, in the order of the counters.
const KINDS: [&str; 4] = ["input", "cached", "output", UNSPLIT];

/// The label of tokens whose kind is not known.
pub(in crate::observe) const UNSPLIT: &str = "unsplit";

/// The models of the policy by their tags, and under [`ModelTag::NONE`] everything else.
pub(super) type ModelTable = BTreeMap<ModelTag, ModelUsage>;

/// A model with its counters.
#[derive(Clone, Debug)]
pub(in crate::observe) struct ModelUsage {
    /// The name in the policy.
    pub(in crate::observe) name: String,
    /// The names under which servers and clients know it.
    pub(in crate::observe) served_names: Vec<String>,
    counters: Arc<UsageCounters>,
}

/// The counters of one model.
#[derive(Debug, Default)]
struct UsageCounters {
    reported: [AtomicU64; KINDS.len()],
    estimated: AtomicU64,
    /// What was charged at an expiry, and a report replaced.
    replaced: AtomicU64,
    costs: CostCounters,
}

/// The costs of one model, in micro-units.
#[derive(Debug, Default)]
struct CostCounters {
    reported: AtomicU64,
    estimated: AtomicU64,
    /// Those of the records that the ledger of this process made of expired requests.
    expired: AtomicU64,
    replaced: AtomicU64,
}

impl ModelUsage {
    fn new(name: &str) -> Self {
        Self { name: name.to_owned(), served_names: Vec::new(), counters: Arc::default() }
    }

    /// Counts the tokens of a settled request.
    pub(super) fn count(&self, tokens: &SettledTokens) {
        let SettledTokens { input, cached, output, unsplit, is_reported, replaced } = *tokens;
        if is_reported {
            for (count, tokens) in
                self.counters.reported.iter().zip([input, cached, output, unsplit])
            {
                count.fetch_add(tokens, Relaxed);
            }
        } else {
            self.counters.estimated.fetch_add(input + cached + output + unsplit, Relaxed);
        }
        self.counters.replaced.fetch_add(replaced, Relaxed);
    }

    /// Counts the cost of a settled request.
    pub(super) fn count_cost(&self, SettledCost { cost, is_reported, replaced }: SettledCost) {
        let CostCounters { reported, estimated, replaced: all_replaced, .. } = &self.counters.costs;
        if is_reported { reported } else { estimated }.fetch_add(cost, Relaxed);
        all_replaced.fetch_add(replaced, Relaxed);
    }

    /// Counts the cost of an expired request, as the ledger records it.
    pub(super) fn count_expired_cost(&self, cost: u64) {
        self.counters.costs.expired.fetch_add(cost, Relaxed);
    }

    /// The costs of settled requests, by where they come from: of what servers reported, estimated,
    /// and of what the ledger of this process recorded of expired requests.
    pub(in crate::observe) fn costs(&self) -> [u64; 3] {
        let CostCounters { reported, estimated, expired, .. } = &self.counters.costs;
        [reported, estimated, expired].map(|count| count.load(Relaxed))
    }

    /// The cost that was charged at an expiry, and that a report replaced.
    pub(in crate::observe) fn replaced_cost(&self) -> u64 {
        self.counters.costs.replaced.load(Relaxed)
    }

    /// The tokens that servers reported, by kind.
    pub(in crate::observe) fn reported(&self) -> impl Iterator<Item = (&'static str, u64)> {
        KINDS.into_iter().zip(self.counters.reported.iter().map(|count| count.load(Relaxed)))
    }

    /// The tokens that were charged without a count of a server.
    pub(in crate::observe) fn estimated(&self) -> u64 {
        self.counters.estimated.load(Relaxed)
    }

    /// The tokens that were charged at an expiry, and that a report replaced.
    pub(in crate::observe) fn replaced(&self) -> u64 {
        self.counters.replaced.load(Relaxed)
    }
}

/// Returns the table without a policy.
pub(super) fn none() -> ModelTable {
    BTreeMap::from([(ModelTag::NONE, ModelUsage::new(OTHER_MODEL))])
}

/// Adds the models of a policy to a table.
pub(super) fn add(table: &mut ModelTable, policy: &Policy) {
    let mut names: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (name, served) in policy.models.served_names() {
        names.entry(name).or_default().push(served.to_owned());
    }
    for (name, mut served) in names {
        served.sort();
        let model = table.entry(ModelTag::of(name)).or_insert_with(|| ModelUsage::new(name));
        model.served_names = served;
    }
}

/// Removes the models that a policy does not have.
pub(super) fn retain(table: &mut ModelTable, policy: &Policy) {
    let tags: std::collections::BTreeSet<ModelTag> =
        policy.models.names().map(ModelTag::of).collect();
    table.retain(|tag, _| *tag == ModelTag::NONE || tags.contains(tag));
}

/// Returns the counters of a tag: those of its model, or of everything else.
pub(super) fn of_tag(table: &ModelTable, tag: ModelTag) -> Option<&ModelUsage> {
    table.get(&tag).or_else(|| table.get(&ModelTag::NONE))
}

#[cfg(test)]
mod tests {
    use tollgate_core::{
        config::{Document, Errors},
        policy::PolicyConfig,
    };

    use super::*;

    fn policy(models: &str) -> Policy {
        let text = format!(
            "{{ models: [{models}], routes: [{{ match: {{ paths: [/health] }}, public: true }}] }}"
        );
        let document = Document::parse(&text, &|_| None).unwrap();
        Policy::compile(&document.read::<PolicyConfig>().unwrap(), &mut Errors::default()).unwrap()
    }

    fn count(table: &ModelTable, model: &str, tokens: SettledTokens) {
        of_tag(table, ModelTag::of(model)).unwrap().count(&tokens);
    }

    #[test]
    fn costs_are_counted_by_where_they_come_from() {
        let mut table = none();
        add(&mut table, &policy("{ name: qwen }"));
        let qwen = of_tag(&table, ModelTag::of("qwen")).unwrap();
        qwen.count_cost(SettledCost { cost: 7, is_reported: true, replaced: 9 });
        qwen.count_cost(SettledCost { cost: 8, is_reported: false, replaced: 0 });
        qwen.count_expired_cost(9);
        assert_eq!((qwen.costs(), qwen.replaced_cost()), ([7, 8, 9], 9));
    }

    #[test]
    fn tokens_are_counted_by_the_models_of_the_policy() {
        let mut table = none();
        let both =
            policy("{ name: qwen, serves: [Qwen/Qwen3, q3], aliases: [best] }, { name: phi }");
        add(&mut table, &both);
        let reported = SettledTokens {
            input: 1,
            cached: 2,
            output: 3,
            unsplit: 4,
            is_reported: true,
            replaced: 5,
        };
        count(&table, "qwen", reported);
        count(&table, "qwen", SettledTokens { is_reported: false, ..reported });
        count(&table, "made-up", reported);
        let qwen = of_tag(&table, ModelTag::of("qwen")).unwrap();
        assert_eq!(qwen.served_names, ["Qwen/Qwen3", "best", "q3"]);
        let kinds: Vec<_> = qwen.reported().collect();
        assert_eq!(kinds, [("input", 1), ("cached", 2), ("output", 3), ("unsplit", 4)]);
        assert_eq!((qwen.estimated(), qwen.replaced()), (10, 10));
        let other = of_tag(&table, ModelTag::NONE).unwrap();
        assert_eq!((other.name.as_str(), other.replaced()), ("other", 5));

        let one = policy("{ name: qwen, serves: [Qwen/Qwen4] }");
        add(&mut table, &one);
        retain(&mut table, &one);
        let names: Vec<_> = table.values().map(|model| model.name.as_str()).collect();
        assert_eq!(names, ["other", "qwen"]);
        let qwen = of_tag(&table, ModelTag::of("qwen")).unwrap();
        assert_eq!(
            (qwen.served_names.as_slice(), qwen.estimated()),
            (&["Qwen/Qwen4".to_owned()][..], 10)
        );
    }
}
