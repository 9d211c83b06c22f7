//! Opens the Redis store of a URL.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tollgate_core::{secret::Secret, time::Span};

use crate::{
    admin::store::StoreRevocations,
    store::{Redis, RedisConfig},
};

/// The deadline of a call, longer than that of a check: an operator waits.
const DEADLINE: Span = Span::from_secs(1);

/// Opens the store at `url`.
///
/// # Errors
/// The text is not a Redis URL.
pub(crate) async fn connect(url: Secret) -> anyhow::Result<StoreRevocations> {
    let url = std::str::from_utf8(url.expose())
        .map_err(|_| anyhow::anyhow!("the Redis URL is not text"))?;
    let url = url.parse()?;
    let config = RedisConfig { deadline: DEADLINE, ..RedisConfig::at(url) };
    Ok(StoreRevocations(Arc::new(Redis::open(&config, CancellationToken::new())?)))
}
