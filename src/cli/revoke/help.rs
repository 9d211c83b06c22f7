//! Examples and exit codes, shown by the help of each subcommand below its options.

pub(super) const ADD: &str = "\
Examples:
  tollgate revoke add --issuer https://auth.example.com --jti 7f3c9e --redis redis://redis:6379
  tollgate revoke add --token @token.txt --note 'found in a log' --redis @redis-url.txt
  tollgate revoke add --issuer https://auth.example.com --subject alice \\
    --admin unix:/run/tollgate/admin.sock --token-file admin-token.txt
  tollgate revoke add --tenant acme --at 2026-01-02T03:04:05Z --redis redis://redis:6379

Exit codes:
  0  revoked, from the next check on
  2  the store or the admin API does not answer or refuses, or usage";

pub(super) const LIST: &str = "\
Examples:
  tollgate revoke list --redis redis://redis:6379
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
