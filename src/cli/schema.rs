//! The command `tollgate schema`.

use std::{io::Write, process::ExitCode};

use clap::Args;

use crate::{adapter::settle_api, admin::openapi::DOCUMENT, config::File};

const MORE: &str = "\
Examples:
  tollgate schema > tollgate.schema.json
  tollgate schema | jq '.[\"$defs\"].IssuerConfig.properties'
  tollgate schema --admin-api > admin-api.openapi.json

An editor with a YAML language server uses it for a file that begins with
  # yaml-language-server: $schema=tollgate.schema.json

Exit codes:
  0  printed";

/// Print the JSON Schema of the configuration file, or the OpenAPI document of an API.
///
/// JSON Schema 2020-12, with a description and the default of every key. `check-config` also finds
/// errors that a schema cannot express.
#[derive(Debug, Args)]
#[command(after_long_help = MORE)]
pub struct Schema {
    /// Print the OpenAPI 3.1 document of the admin API in its place.
    #[arg(long)]
    admin_api: bool,
    /// Print the OpenAPI 3.1 document of `listen.settle` in its place.
    #[arg(long, conflicts_with = "admin_api")]
    settle_api: bool,
}

impl Schema {
    /// Prints the schema to `out`.
    ///
    /// # Errors
    /// A failed write to `out`.
    pub fn run(&self, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
        if self.admin_api {
            write!(out, "{DOCUMENT}")?;
            return Ok(ExitCode::SUCCESS);
        }
        if self.settle_api {
            write!(out, "{}", settle_api::DOCUMENT)?;
            return Ok(ExitCode::SUCCESS);
        }
        writeln!(out, "{}", serde_json::to_string_pretty(&schema())?)?;
        Ok(ExitCode::SUCCESS)
    }
}

fn schema() -> schemars::Schema {
    schemars::generate::SchemaSettings::draft2020_12()
        .into_generator()
        .into_root_schema_for::<File>()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_schema_knows_every_section() {
        let schema = serde_json::to_value(super::schema()).unwrap();
        for section in [
            "listen",
            "body",
            "drain_timeout",
            "store",
            "audit",
            "observe",
            "log",
            "issuers",
            "models",
            "tiers",
            "categories",
            "routes",
            "limits",
            "revocation",
            "require_https",
        ] {
            assert!(schema["properties"][section]["description"].is_string(), "{section}");
        }
        assert_eq!(schema["additionalProperties"], false);
    }
}
