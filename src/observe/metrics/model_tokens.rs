//! The tokens of settled requests, by model: what is compared with the counters of the servers.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use tollgate_core::{
    limit::{model_tag::ModelTag, settled_tokens::SettledTokens},
    policy::Policy,
};

use super::series::OTHER_MODEL;

/// The labels of the kinds of tokens that a server reported, in the order of the counters.
const KINDS: [&str; 4] = ["input", "cached", "output", UNSPLIT];

/// The label of tokens whose kind is not known.
pub(in crate::observe) const UNSPLIT: &str = "unsplit";

/// The models of the policy by their tags, and under [`ModelTag::NONE`] everything else.
pub(super) type ModelTable = BTreeMap<ModelTag, ModelTokens>;

/// A model with its counters.
#[derive(Clone, Debug)]
pub(in crate::observe) struct ModelTokens {
    /// The name in the policy.
    pub(in crate::observe) name: String,
    /// The names under which servers and clients know it.
    pub(in crate::observe) served_names: Vec<String>,
    counters: Arc<TokenCounters>,
}

/// The counters of one model.
#[derive(Debug, Default)]
struct TokenCounters {
    reported: [AtomicU64; KINDS.len()],
    estimated: AtomicU64,
    /// What was charged at an expiry, and a report replaced.
    replaced: AtomicU64,
}

impl ModelTokens {
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
    BTreeMap::from([(ModelTag::NONE, ModelTokens::new(OTHER_MODEL))])
}

/// Adds the models of a policy to a table.
pub(super) fn add(table: &mut ModelTable, policy: &Policy) {
    let mut names: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (name, served) in policy.models.served_names() {
        names.entry(name).or_default().push(served.to_owned());
    }
    for (name, mut served) in names {
        served.sort();
        let model = table.entry(ModelTag::of(name)).or_insert_with(|| ModelTokens::new(name));
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
pub(super) fn of_tag(table: &ModelTable, tag: ModelTag) -> Option<&ModelTokens> {
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
