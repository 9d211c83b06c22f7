//! The calls for bans.

use http::Method;
use serde::Deserialize;
use serde_json::Map;
use tollgate_core::ban::Target;

use super::{AdminClient, ClientError, found, page, position, read};
use crate::{
    admin::{
        EntryPage,
        bans::{Bans, CHECK_PATH, ListedBan, PATH, selector},
        offenders::{self, ListedOffenders},
    },
    observe::rfc3339::Rfc3339,
    store::{BanQuery, Entry, NewBan, Position},
};

impl AdminClient {
    /// Reads the lists of offenders, `limit` of each kind at most.
    pub(in crate::cli) async fn offenders(
        &self,
        limit: u16,
    ) -> Result<ListedOffenders, ClientError> {
        let path = format!("{}?limit={limit}", offenders::PATH);
        read(self.call(Method::GET, path, None).await?)
    }
}

impl Bans for AdminClient {
    type Error = ClientError;

    async fn ban(&self, ban: &NewBan) -> Result<Entry, ClientError> {
        let mut body = selector(ban.target());
        body.extend(ban.until().map(|end| ("until".to_owned(), Rfc3339(end).to_string().into())));
        body.extend(ban.reason().map(|reason| ("reason".to_owned(), reason.into())));
        let answer: ListedBan =
            read(self.call(Method::POST, PATH.into(), Some(body.into())).await?)?;
        Ok(answer.into())
    }

    async fn lift(&self, target: &Target) -> Result<bool, ClientError> {
        let call = self.call(Method::DELETE, PATH.into(), Some(selector(target).into()));
        found(call.await?).map(|answer| answer.is_some())
    }

    async fn list_bans(
        &self,
        after: Option<&Position>,
        limit: usize,
    ) -> Result<EntryPage, ClientError> {
        #[derive(Deserialize)]
        struct Answer {
            bans: Vec<ListedBan>,
            next: Option<String>,
        }
        let call = self.call(Method::GET, page(PATH, after, limit), None);
        let Answer { bans, next } = read(call.await?)?;
        let entries = bans.into_iter().map(Into::into).collect();
        Ok(EntryPage { entries, next: position(next)? })
    }

    async fn bans_of(&self, query: &BanQuery) -> Result<Vec<Entry>, ClientError> {
        #[derive(Deserialize)]
        struct Answer {
            bans: Vec<ListedBan>,
        }
        let body = match query {
            BanQuery::Target(target) => selector(target),
            BanQuery::Address(address) => {
                Map::from_iter([("address".to_owned(), address.to_string().into())])
            }
        };
        let call = self.call(Method::POST, CHECK_PATH.into(), Some(body.into()));
        let Answer { bans } = read(call.await?)?;
        Ok(bans.into_iter().map(Into::into).collect())
    }
}
