//! The ledger of a configuration.

use std::{path::Path, sync::Arc};

use anyhow::{anyhow, bail};
use tokio_util::sync::CancellationToken;
use tollgate_core::{
    admission::Outage,
    ledger::{calendar::Calendar, config::LedgerConfig, keys::LedgerKeys, rows::Measures},
    time::Span,
};

use crate::{
    cli::{config_file, printable},
    secrets,
    store::{Redis, RedisConfig, StoreConfig, StoreUnavailable},
};

/// The deadline of a call, longer than that of a check: an operator waits.
const DEADLINE: Span = Span::from_secs(1);

/// The entries that are read at once.
pub(super) const PAGE: usize = 500;

/// An opened ledger.
pub(super) struct Place {
    pub(super) redis: Redis,
    pub(super) config: LedgerConfig,
    pub(super) calendar: Calendar,
    /// The name of the currency of costs; `None` where the policy has no prices.
    pub(super) currency: Option<Arc<str>>,
}

impl Place {
    /// Opens the ledger of the configuration at `path`. Call it inside a runtime.
    ///
    /// # Errors
    /// The configuration has errors, or no ledger.
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        let loaded = config_file::load(path)?;
        let (Some(config), StoreConfig::Redis(store)) =
            (loaded.policy.ledger, &loaded.file.server.store)
        else {
            bail!("`{}` keeps no ledger: add the section `ledger`", path.display());
        };
        let store = RedisConfig { deadline: DEADLINE, ..(**store).clone() };
        let redis = Redis::open(&store, CancellationToken::new())?;
        let calendar = Calendar::of(&config.time_zone);
        let currency = loaded.policy.prices.map(|prices| prices.currency);
        Ok(Self { redis, config, calendar, currency })
    }

    /// Reads the keys of the ledger.
    ///
    /// # Errors
    /// A key cannot be read.
    pub(super) fn keys(&self) -> anyhow::Result<LedgerKeys> {
        let mut keys = Vec::with_capacity(self.config.keys.len());
        for (index, key) in self.config.keys.iter().enumerate() {
            let secret = secrets::resolve_blocking(&key.secret)
                .map_err(|error| anyhow!("ledger.keys[{index}].secret: {error}"))?;
            keys.push((key.id.clone(), secret));
        }
        Ok(LedgerKeys::new(keys)?)
    }

    /// Checks that the days of the ledger are those of the time zone of the configuration.
    ///
    /// # Errors
    /// They are those of another one, or Redis does not answer.
    pub(super) async fn check_time_zone(&self) -> anyhow::Result<()> {
        let noted = self.redis.ledger_time_zone().await.map_err(|it| self.unavailable(it))?;
        let configured = &self.config.time_zone;
        match noted {
            Some(noted) if noted != *configured => bail!(
                "the ledger has the time zone `{}`, and `ledger.time_zone` is `{configured}`: use the \
                 configuration of the replicas",
                printable::printable(&noted)
            ),
            _ => Ok(()),
        }
    }

    /// Words a cost; nothing where there is neither a price nor a cost.
    pub(super) fn cost(&self, Measures { cost, estimated_cost, .. }: &Measures) -> String {
        if self.currency.is_none() && *cost == 0 {
            return String::new();
        }
        let unit = self.unit();
        format!("; the cost is {cost} {unit}, {estimated_cost} of it estimated")
    }

    /// The unit of costs.
    pub(super) fn unit(&self) -> String {
        match &self.currency {
            Some(currency) => format!("micro-units of {currency}"),
            None => "micro-units".to_owned(),
        }
    }

    /// Words a call that Redis did not answer.
    pub(super) fn unavailable(&self, outage: Outage) -> anyhow::Error {
        StoreUnavailable::of(&self.redis, outage).into()
    }
}
