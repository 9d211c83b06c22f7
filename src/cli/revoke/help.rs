//! Examples and exit codes, shown by the help of each subcommand below its options.

pub(super) const ADD: &str = "\
Examples:
  tollgate revoke add --issuer https://auth.example.com --jti 7f3c9e --redis redis://redis:6379
  tollgate revoke add --issuer https://auth.example.com --subject alice \\
    --redis redis://redis:6379 --config tollgate.yaml
  tollgate revoke add --token @token.txt --note 'found in a log' --redis @redis-url.txt
  tollgate revoke add --issuer https://auth.example.com --subject alice \\
    --admin unix:/run/tollgate/admin.sock --token-file admin-token.txt
  tollgate revoke add --tenant acme --at 2026-01-02T03:04:05Z --redis redis://redis:6379
  tollgate revoke add --issuer https://auth.example.com --actor planner --redis redis://redis:6379
  tollgate revoke add --issuer https://auth.example.com --kid 2026-10 --redis redis://redis:6379
  tollgate revoke add --spiffe spiffe://prod.example.com/batch --redis redis://redis:6379

An issuer that the policy does not have is refused by the admin API, and with a configuration file
also here: a revocation with a mistyped issuer would protect nothing.

Exit codes:
  0  revoked, from the next check on
  2  the store or the admin API does not answer or refuses, an unknown issuer, or usage";

pub(super) const CHECK: &str = "\
Examples:
  tollgate revoke check --issuer https://auth.example.com --subject alice \\
    --redis redis://redis:6379
  tollgate revoke check --token @token.txt \\
    --admin unix:/run/tollgate/admin.sock --token-file admin-token.txt

Exit codes:
  0  revoked: the revocation is printed
  1  not revoked
  2  the store or the admin API does not answer or refuses, or usage";

pub(super) const LIST: &str = "\
Examples:
  tollgate revoke list --redis redis://redis:6379
  tollgate revoke list --issuer https://auth.example.com --subject alice \\
    --redis redis://redis:6379
  tollgate revoke list --redis redis://redis:6379 --output json \\
    | jq '.revocations[] | select(.kind == \"tenant\")'

Exit codes:
  0  printed, also if nothing is revoked
  2  the store or the admin API does not answer or refuses, or usage";

pub(super) const REMOVE: &str = "\
Examples:
  tollgate revoke remove --issuer https://auth.example.com --jti 7f3c9e --redis redis://redis:6379
  tollgate revoke remove --tenant acme \\
    --admin https://gate.example.com --token-file admin-token.txt

Exit codes:
  0  removed
  1  no such revocation exists
  2  the store or the admin API does not answer or refuses, or usage";
