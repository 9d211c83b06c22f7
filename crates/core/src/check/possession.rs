//! The part of a check that finds out whether a client has the keys that its token is bound to.

use super::{hooks::CheckHooks, network::BannedClient};
use crate::{
    authenticate,
    credential::{
        Credential,
        dpop::{self, Dpop, Expected, HEADER, ProofAnswer, ProofFault, ProofUse, RefusedProof},
    },
    decision::Evidence,
    denial::{CredentialFailure, Denial, Reason},
    identity::Principal,
    request::Request,
    snapshot::Snapshot,
    time::Timestamp,
};

/// Checks the proof of each key that a credential is bound to (RFC 7800). Returns the use of the
/// proof, which the store permits once. `banned` is a client whose network is banned automatically: where
/// proofs of a key were forged there, few are verified.
///
/// The scheme of the token and its binding have to agree: a bound token that is sent as `Bearer`
/// would be worth as much as one that is not bound.
#[cold]
pub(super) fn check_possession(
    credential: Credential<'_>,
    principal: &Principal,
    (request, banned): (&Request<'_>, Option<&BannedClient>),
    snapshot: &Snapshot,
    now: Timestamp,
    hooks: &mut impl CheckHooks,
    evidence: &mut Evidence,
) -> Result<Option<Box<ProofUse>>, Denial> {
    let policy = &snapshot.policy;
    let confirmation = principal.confirmation().copied().unwrap_or_default();
    if let Some(certificate) = confirmation.certificate {
        let section = policy.client_certificates.as_ref();
        authenticate::check_certificate(&certificate, request, section)?;
    }
    let Some(thumbprint) = confirmation.key else {
        if !credential.has_proof() {
            return Ok(None);
        }
        evidence.proof.get_or_insert_default().fault = Some(ProofFault::Token);
        let cause = "the token was sent as `DPoP`, and is bound to no key";
        return Err(Denial::new(Reason::InvalidProof, cause).with_message(cause));
    };
    let Some(config) = &policy.dpop else {
        let cause = "the token is bound to a key of DPoP (`jkt`), and without the section `dpop` no \
                     proof is read";
        return Err(Denial::new(Reason::UnsupportedConfirmation, cause));
    };
    let answer = &mut **evidence.proof.get_or_insert_default();
    if !credential.has_proof() {
        answer.fault = Some(ProofFault::Token);
        let cause = "the token is bound to a key of DPoP, and was sent as `Bearer`";
        return Err(Denial::new(Reason::ProofRequired, cause)
            .with_message("the token is bound to a key; send it as `DPoP`, with a proof"));
    }
    let (_, token) = authenticate::cache_key(&credential);
    let nonces = snapshot.nonce_keys.as_deref();
    if config.nonce.is_some() && nonces.is_none() {
        let cause = "the secrets of nonces are older than secrets.max_stale, or were never read";
        return Err(Denial::new(Reason::NotReady, cause));
    }
    let proof = one_proof(request, answer)?;
    let expected = Expected {
        method: request.method,
        path: request.path.raw(),
        token,
        thumbprint: &thumbprint,
        nonces,
        now,
    };
    if let Some(client) = banned
        && !hooks.may_verify_proof(client.address, &thumbprint)
    {
        return Err(client.unverified(now));
    }
    match dpop::verify(proof, &expected, config) {
        Ok(verified) => {
            answer.nonce = verified.next_nonce;
            let holder = principal.revocation().subject().fingerprint();
            Ok(Some(Box::new(config.use_of(verified.id, holder))))
        }
        Err(refused) => {
            if let Some(client) = banned.filter(|_| refused.is_forged) {
                hooks.note_forged_proof(client.address, &thumbprint);
            }
            Err(denial(refused, config, &expected, answer))
        }
    }
}

/// Returns the value of the one header with a proof.
fn one_proof<'a>(request: &Request<'a>, answer: &mut ProofAnswer) -> Result<&'a [u8], Denial> {
    let mut values = request.headers.all(HEADER);
    let Some(first) = values.next() else {
        answer.fault = Some(ProofFault::Proof);
        let cause = "the token is bound to a key of DPoP, and the request has no header `DPoP`";
        return Err(Denial::new(Reason::ProofRequired, cause)
            .with_message("the token is bound to a key; send a proof in the header `DPoP`"));
    };
    if values.next().is_some() || memchr::memchr(b',', first).is_some() {
        answer.fault = Some(ProofFault::Proof);
        let cause = "more than one header `DPoP`, or one with a comma";
        return Err(Denial::new(Reason::InvalidProof, cause).with_message(cause));
    }
    Ok(first)
}

/// The denial of a proof, with the nonce that the client has to use where it lacks one.
fn denial(
    RefusedProof { fault, cause, is_forged }: RefusedProof,
    config: &Dpop,
    expected: &Expected<'_>,
    answer: &mut ProofAnswer,
) -> Denial {
    answer.fault = Some(fault);
    if fault == ProofFault::Nonce
        && let (Some(terms), Some(keys)) = (&config.nonce, expected.nonces)
    {
        answer.nonce = Some(keys.issue(terms.life, expected.now));
    }
    let cause = format!("the proof in the header `DPoP` is refused: {cause}");
    let denial = Denial::new(Reason::InvalidProof, cause.clone()).with_message(cause);
    if is_forged { denial.with_failure(CredentialFailure::BadSignature) } else { denial }
}
