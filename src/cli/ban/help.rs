//! Examples and exit codes, shown by the help of each subcommand below its options.

pub(super) const ADD: &str = "\
Examples:
  tollgate ban add --issuer https://auth.example.com --subject alice --redis redis://redis:6379
  tollgate ban add --issuer https://auth.example.com --actor planner --reason decommissioned \\
    --redis redis://redis:6379
  tollgate ban add --network 203.0.113.0/24 --for 1d --reason 'scraper' --redis @redis-url.txt
  tollgate ban add --network 2001:db8::/48 --until 2026-01-02T03:04:05Z \\
    --admin unix:/run/tollgate/admin.sock --token-file admin-token.txt

Exit codes:
  0  banned, from the next check on
  2  the store or the admin API does not answer or refuses, or usage";

pub(super) const LIST: &str = "\
Examples:
  tollgate ban list --redis redis://redis:6379
  tollgate ban list --redis redis://redis:6379 --output json \\
    | jq '.bans[] | select(.kind == \"network\") | .network'

Exit codes:
  0  printed, also if nothing is banned
  2  the store or the admin API does not answer or refuses, or usage";

pub(super) const LIFT: &str = "\
Examples:
  tollgate ban lift --issuer https://auth.example.com --subject alice --redis redis://redis:6379
  tollgate ban lift --network 203.0.113.0/24 \\
    --admin https://gate.example.com --token-file admin-token.txt

Exit codes:
  0  lifted
  1  no such ban is in force
  2  the store or the admin API does not answer or refuses, or usage";

pub(super) const CHECK: &str = "\
Examples:
  tollgate ban check --address 203.0.113.7 --redis redis://redis:6379
  tollgate ban check --issuer https://auth.example.com --subject alice --redis redis://redis:6379

Exit codes:
  0  banned
  1  not banned
  2  the store or the admin API does not answer or refuses, or usage";

pub(super) const OFFENDERS: &str = "\
Examples:
  tollgate ban offenders --admin unix:/run/tollgate/admin.sock --token-file admin-token.txt
  tollgate ban offenders --admin https://gate.example.com --token-file admin-token.txt --limit 100 \\
    --output json | jq -r '.networks.list[] | select(.ban == null) | .network'

Exit codes:
  0  printed, also if nothing was refused
  2  the admin API does not answer or refuses, or usage";
