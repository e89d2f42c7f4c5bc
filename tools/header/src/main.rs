//! Writes the C header from `src/capi`: `cargo run -p header -- OUTPUT [SOURCE_ROOT]`.
//!
//! Sources are given one by one and parsed as text, so that the header does not depend on the rest of the crate and its
//! sections come in this order. The version macros are taken from the package's own version.

use std::error::Error;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

/// Files with exported items, in the order in which the header shows them.
const SOURCES: &[&str] = &[
    "types.rs",
    "status.rs",
    "version.rs",
    "options.rs",
    "open_close.rs",
    "store_calls.rs",
    "multi_get.rs",
    "batch.rs",
    "async_calls.rs",
    "pin.rs",
    "snapshot.rs",
    "keyspace.rs",
    "iter.rs",
];

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let output = arguments.next().unwrap_or_else(|| "include/flatkv.h".into());
    let root = arguments.next().unwrap_or_else(|| ".".into());
    match generate(Path::new(&root), Path::new(&output)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("header: {error}");
            ExitCode::FAILURE
        }
    }
}

fn generate(root: &Path, output: &Path) -> Result<(), Box<dyn Error>> {
    let mut config = cbindgen::Config::from_file(root.join("cbindgen.toml"))?;
    config.after_includes = Some(version_macros(&package_version(root)?)?);
    let mut builder = cbindgen::Builder::new().with_config(config);
    for source in SOURCES {
        builder = builder.with_src(root.join("src/capi").join(source));
    }
    let mut header = Vec::new();
    builder.generate()?.write(&mut header);
    Ok(fs::write(output, header)?)
}

/// The version of the root package: the first `version` line of its manifest.
fn package_version(root: &Path) -> Result<String, Box<dyn Error>> {
    let manifest = fs::read_to_string(root.join("Cargo.toml"))?;
    manifest
        .lines()
        .find_map(|line| line.strip_prefix("version = \"")?.strip_suffix('"'))
        .map(str::to_owned)
        .ok_or_else(|| "Cargo.toml: expected a line `version = \"...\"`".into())
}

fn version_macros(version: &str) -> Result<String, Box<dyn Error>> {
    let release = version.split('-').next().unwrap_or(version);
    let parts: Vec<u32> = release.split('.').map(str::parse).collect::<Result<_, _>>()?;
    let [major, minor, patch] = parts[..] else {
        return Err(format!("version {version}: expected three numbers").into());
    };
    Ok(format!(
        "
/* The version of this header. flatkv_version() and flatkv_version_number() tell the library's. */
#define FLATKV_VERSION \"{version}\"
#define FLATKV_VERSION_MAJOR {major}
#define FLATKV_VERSION_MINOR {minor}
#define FLATKV_VERSION_PATCH {patch}
/* major * 1000000 + minor * 1000 + patch */
#define FLATKV_VERSION_NUMBER {number}",
        number = major * 1_000_000 + minor * 1_000 + patch,
    ))
}
