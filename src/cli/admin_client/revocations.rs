//! The calls for revocations.

use http::{Method, StatusCode};
use serde::Deserialize;
use tollgate_core::revocation::Target;

use super::{AdminClient, ClientError, found, page, position, read};
use crate::{
    admin::{
        EntryPage, PATH, Revocations,
        request::{ListedJson, selector},
    },
    observe::rfc3339::Rfc3339,
    store::{Position, Revocation},
};

impl Revocations for AdminClient {
    type Error = ClientError;

    async fn revoke(&self, revocation: &Revocation) -> Result<(), ClientError> {
        let mut body = selector(revocation.target());
        body.insert("ttl".into(), revocation.ttl().to_string().into());
        if revocation.target().is_before() {
            body.insert("at".into(), Rfc3339(revocation.at()).to_string().into());
        }
        body.extend(revocation.note().map(|note| ("note".to_owned(), note.into())));
        match self.call(Method::POST, PATH.into(), Some(body.into())).await? {
            (StatusCode::OK, _) => Ok(()),
            (status, _) => Err(ClientError::Strange(status.as_u16())),
        }
    }

    async fn reinstate(&self, target: &Target) -> Result<bool, ClientError> {
        let call = self.call(Method::DELETE, PATH.into(), Some(selector(target).into()));
        found(call.await?).map(|answer| answer.is_some())
    }

    async fn list(&self, after: Option<&Position>, limit: usize) -> Result<EntryPage, ClientError> {
        #[derive(Deserialize)]
        struct Answer {
            revocations: Vec<ListedJson>,
            next: Option<String>,
        }
        let answer: Answer = read(self.call(Method::GET, page(PATH, after, limit), None).await?)?;
        let entries = answer.revocations.into_iter().map(Into::into).collect();
        Ok(EntryPage { entries, next: position(answer.next)? })
    }
}
