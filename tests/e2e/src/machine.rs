//! What the machine must offer: root, and programs that Debian packages bring.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where programs are looked for. Fixed, so that a developer's own `PATH` does not decide what is tested, and
/// so that an ordinary user can run what root found.
pub const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The list of Debian packages: `package programs why`, one a line.
const PACKAGES: &str = include_str!("../../../scripts/packages.txt");

/// Runs a tool to its end and gives what it printed.
///
/// # Errors
/// When it can't be started or fails, with what it printed.
pub fn run_tool(program: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program)
        .args(arguments)
        .env("PATH", SEARCH_PATH)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        let printed = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(format!("{program} {}: {printed} ({})", arguments.join(" "), output.status))
    }
}

/// Finds a program.
///
/// # Errors
/// When it is missing: the message names the Debian package that has it.
pub fn find(program: &str) -> Result<PathBuf, String> {
    let found =
        SEARCH_PATH.split(':').map(|folder| Path::new(folder).join(program)).find(|path| path.is_file());
    found.ok_or_else(|| match package_of(program) {
        Some(package) => format!("{program} is missing: install the Debian package {package}"),
        None => format!("{program} is missing, and scripts/packages.txt names no package for it"),
    })
}

/// The Debian package that a program comes from, by `scripts/packages.txt`.
fn package_of(program: &str) -> Option<&'static str> {
    PACKAGES.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let mut columns = line.split_whitespace();
        let package = columns.next()?;
        let programs = columns.next()?;
        programs.split(',').any(|each| each == program).then_some(package)
    })
}

/// Asserts what every end-to-end test needs.
///
/// # Errors
/// When the caller is not root or a base tool is missing.
pub fn check() -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err(
            "the end-to-end tests make network namespaces and switch users: run them as root".to_owned()
        );
    }
    for tool in ["ip", "setpriv", "sysctl", "sh", "python3", "cc", "musl-gcc"] {
        find(tool)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_the_package_list_has_three_columns() {
        for line in PACKAGES.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()) {
            assert!(line.split_whitespace().count() >= 3, "package, programs and why: {line}");
        }
    }

    #[test]
    fn a_missing_program_names_its_package() {
        assert_eq!(package_of("redis-benchmark"), Some("redis-tools"));
        assert!(find("no-such-program-anywhere").is_err());
    }
}
