//! The program of the test images: see the library.

use std::process::ExitCode;

use leader_specimen::options::Options;
use leader_specimen::run::run;

fn main() -> ExitCode {
    // A word that is not UTF-8 is none of those that are known.
    let arguments: Vec<String> = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    match Options::read(|name| std::env::var(name).ok()).and_then(|options| run(options, &arguments)) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("specimen: {error:#}");
            ExitCode::FAILURE
        }
    }
}
