//! `tollgate schema`.

use std::process::ExitCode;

use crate::config::File;

/// Prints the JSON Schema (2020-12) of the configuration file, with every default and its reason.
///
/// # Errors
/// None that occurs: a schema is JSON.
pub fn print() -> anyhow::Result<ExitCode> {
    println!("{}", serde_json::to_string_pretty(&schema())?);
    Ok(ExitCode::SUCCESS)
}

fn schema() -> schemars::Schema {
    schemars::generate::SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<File>()
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
