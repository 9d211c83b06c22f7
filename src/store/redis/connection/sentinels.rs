//! Sentinels, which know the address of the primary.
//!
//! All of them are queried at once, and of their answers the one with the highest configuration epoch
//! holds: a Sentinel that a partition separates from the others still names the primary of before.

use std::{
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use ::redis::{RedisResult, aio::MultiplexedConnection, cmd};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::{
    sync::Mutex,
    time::{sleep, timeout},
};

use super::connector::{Connector, Driver};
use crate::store::{config::Address, redis::error::ConnectionError};

/// The time limit of one query.
const QUERY: Duration = Duration::from_millis(400);

/// The interval at which a Sentinel is queried while the primary is in use: for so long an old primary
/// that still answers may be used after a failover.
const WATCH: Duration = Duration::from_millis(250);

/// The Sentinels of one primary.
pub(super) struct Sentinels {
    sentinels: Vec<Sentinel>,
    primary: String,
    connector: Connector,
    /// The Sentinels as messages show them.
    shown: Arc<str>,
    /// The highest epoch of an answer so far.
    highest: AtomicU64,
}

/// One Sentinel, with a connection that is kept.
struct Sentinel {
    address: Address,
    shown: Arc<str>,
    connection: Mutex<Option<(MultiplexedConnection, Driver)>>,
}

/// What a Sentinel knows of the primary.
enum Answer {
    Primary {
        host: String,
        port: u16,
        epoch: u64,
    },
    /// The name is not known; these are.
    Unknown(Vec<String>),
}

/// The answer of some Sentinels with the highest epoch.
struct Newest {
    address: Address,
    epoch: u64,
    /// Whether most of the Sentinels have answered.
    is_of_most: bool,
}

impl Sentinels {
    pub(super) fn new(
        addresses: &[Address],
        primary: &str,
        connector: Connector,
        shown: Arc<str>,
    ) -> Self {
        let sentinels = addresses.iter().map(|address| Sentinel {
            address: address.clone(),
            shown: address.to_string().into(),
            connection: Mutex::default(),
        });
        Self {
            sentinels: sentinels.collect(),
            primary: primary.to_owned(),
            connector,
            shown,
            highest: AtomicU64::new(0),
        }
    }

    /// Returns the address of the primary.
    ///
    /// # Errors
    /// No Sentinel answers, none knows the primary, or those that answer know an older one than was in use.
    pub(super) async fn find(&self) -> Result<Address, ConnectionError> {
        let Newest { address, epoch, is_of_most } = self.newest().await?;
        // INVARIANT: a primary that was replaced is not used again because the Sentinels that know of it
        // do not answer. Where most of them agree on an earlier epoch, they were set up again.
        if is_of_most {
            self.highest.store(epoch, Ordering::Relaxed);
        } else if self.highest.fetch_max(epoch, Ordering::Relaxed) > epoch {
            let servers = Arc::clone(&self.shown);
            let cause = format!(
                "most sentinels do not answer, and the others name {address}, which was replaced"
            );
            return Err(ConnectionError::Undiscovered { servers, cause });
        }
        Ok(address)
    }

    /// Waits until the primary is another one than `current`. Returns its address.
    pub(super) async fn replaced(&self, current: &Address) -> Address {
        // One at a time is queried, in turn: each of them knows a failover within an instant.
        for sentinel in self.sentinels.iter().cycle() {
            sleep(WATCH).await;
            let Ok(Answer::Primary { host, port, epoch }) = self.query(sentinel).await else {
                continue;
            };
            let known = self.highest.fetch_max(epoch, Ordering::Relaxed);
            let address = Address::Tcp { host, port, tls: self.connector.tls() };
            if epoch >= known && address != *current {
                return address;
            }
        }
        // There is no Sentinel.
        pending().await
    }

    /// Queries the Sentinels until most of them have answered, and one of them with the epoch that is known.
    /// Returns the newest answer.
    async fn newest(&self) -> Result<Newest, ConnectionError> {
        let known = self.highest.load(Ordering::Relaxed);
        let queries = self.sentinels.iter().map(|sentinel| self.query(sentinel));
        let mut queries: FuturesUnordered<_> = queries.collect();
        let mut newest: Option<(Address, u64)> = None;
        let (mut names, mut failure, mut answered) = (Vec::new(), None, 0);
        let is_most = |answered: usize| answered > self.sentinels.len() / 2;
        while let Some(answer) = queries.next().await {
            match answer {
                Ok(Answer::Primary { host, port, epoch }) => {
                    let tls = self.connector.tls();
                    let address = Address::Tcp { host, port, tls };
                    if newest.as_ref().is_none_or(|(_, before)| *before < epoch) {
                        newest = Some((address, epoch));
                    }
                }
                Ok(Answer::Unknown(known)) => names.extend(known),
                Err(error) => {
                    failure.get_or_insert(error);
                    continue;
                }
            }
            answered += 1;
            if newest.as_ref().is_some_and(|(_, epoch)| *epoch >= known) && is_most(answered) {
                break;
            }
        }
        let is_of_most = is_most(answered);
        newest.map(|(address, epoch)| Newest { address, epoch, is_of_most }).ok_or_else(|| {
            let servers = Arc::clone(&self.shown);
            names.sort_unstable();
            names.dedup();
            let cause = match (answered, failure) {
                (0, Some(error)) => format!("no sentinel answers ({error})"),
                _ if names.is_empty() => "the sentinels monitor no primary".to_owned(),
                _ => format!("the sentinels know `{}`, and no such name", names.join("`, `")),
            };
            ConnectionError::Undiscovered { servers, cause }
        })
    }

    async fn query(&self, sentinel: &Sentinel) -> Result<Answer, ConnectionError> {
        let late = |_| ConnectionError::Timeout { address: Arc::clone(&sentinel.shown) };
        timeout(QUERY, async {
            let mut kept = sentinel.connection.lock().await;
            if let Some((mut connection, driver)) = kept.take()
                && let Ok(answer) = self.answer(&mut connection).await
            {
                *kept = Some((connection, driver));
                return Ok(answer);
            }
            let opened = self.connector.open(&sentinel.address, &sentinel.shown).await?;
            let mut connection = opened.redis;
            self.connector.log_in(&mut connection, &sentinel.shown).await?;
            let answer = self.answer(&mut connection).await;
            let answer = answer.map_err(|error| ConnectionError::sentinel(&sentinel.shown, &error));
            if answer.is_ok() {
                *kept = Some((connection, opened.driver));
            }
            answer
        })
        .await
        .unwrap_or_else(|elapsed| Err(late(elapsed)))
    }

    async fn answer(&self, connection: &mut MultiplexedConnection) -> RedisResult<Answer> {
        // During a failover the address is already that of the new primary, with the new epoch,
        // while `SENTINEL MASTER` has the old one.
        let mut query = cmd("SENTINEL");
        query.arg("GET-MASTER-ADDR-BY-NAME").arg(&self.primary);
        let address: Option<(String, u16)> = query.query_async(connection).await?;
        if let Some((host, port)) = address {
            let mut query = cmd("SENTINEL");
            query.arg("MASTER").arg(&self.primary);
            let details: Vec<String> = query.query_async(connection).await?;
            return Ok(Answer::Primary { host, port, epoch: number(&details, "config-epoch") });
        }
        let all: Vec<Vec<String>> = cmd("SENTINEL").arg("MASTERS").query_async(connection).await?;
        Ok(Answer::Unknown(all.iter().filter_map(|one| text(one, "name")).collect()))
    }
}

/// The value of a field in a list of fields and values.
fn text(fields: &[String], name: &str) -> Option<String> {
    let (pairs, _) = fields.as_chunks::<2>();
    pairs.iter().find(|[field, _]| field == name).map(|[_, value]| value.clone())
}

fn number(fields: &[String], name: &str) -> u64 {
    text(fields, name).and_then(|value| value.parse().ok()).unwrap_or(0)
}
