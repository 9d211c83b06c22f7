//! The client of the admin API for bans.

use http::{Method, StatusCode};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value};
use tollgate_core::ban::Target;

use crate::{
    admin::{
        EntryPage,
        bans::{Bans, CHECK_PATH, ListedBan, PATH, selector},
    },
    cli::revoke::client::{AdminClient, ClientError},
    observe::rfc3339::Rfc3339,
    store::{BanQuery, Entry, NewBan},
};

fn read<T: DeserializeOwned>((status, json): (StatusCode, Value)) -> Result<T, ClientError> {
    let strange = || ClientError::Strange(status.as_u16());
    if status != StatusCode::OK {
        return Err(strange());
    }
    serde_json::from_value(json).map_err(|_| strange())
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
        let body = Some(selector(target).into());
        let (status, json) = self.call(Method::DELETE, PATH.into(), body).await?;
        match status {
            StatusCode::OK => Ok(true),
            _ if json.pointer("/error/code").is_some_and(|code| code == "not_found") => Ok(false),
            _ => Err(ClientError::Strange(status.as_u16())),
        }
    }

    async fn list_bans(&self, offset: usize, limit: usize) -> Result<EntryPage, ClientError> {
        #[derive(Deserialize)]
        struct Answer {
            bans: Vec<ListedBan>,
            next: Option<String>,
        }
        let path = format!("{PATH}?limit={limit}&cursor={offset}");
        let (status, json) = self.call(Method::GET, path, None).await?;
        let Answer { bans, next } = read((status, json))?;
        let strange = |_| ClientError::Strange(status.as_u16());
        let next = next.map(|next| next.parse().map_err(strange)).transpose()?;
        Ok(EntryPage { entries: bans.into_iter().map(Into::into).collect(), next })
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
