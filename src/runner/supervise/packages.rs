//! Package managers that can bring an SSH server into an image that has none.

/// How one of them does it.
#[derive(Debug)]
pub(super) struct Manager {
    /// The program's name.
    pub(super) program: &'static str,
    /// What must be done first, and may fail (a stale list of packages is better than none).
    pub(super) refresh: Option<&'static [&'static str]>,
    /// What installs it; if the first fails, the next is tried (the package has two names).
    pub(super) install: &'static [&'static [&'static str]],
}

/// In the order in which they are looked for.
pub(super) const MANAGERS: &[Manager] = &[
    Manager {
        program: "apt-get",
        // Without a network it must not try for minutes.
        refresh: Some(&["-o", "Acquire::Retries=0", "-o", "Acquire::http::Timeout=20", "update"]),
        install: &[&["install", "-y", "--no-install-recommends", "openssh-server"]],
    },
    Manager {
        program: "apk",
        refresh: None,
        install: &[&["add", "--no-cache", "openssh-server"], &["add", "--no-cache", "openssh"]],
    },
    Manager { program: "dnf", refresh: None, install: &[&["install", "-y", "openssh-server"]] },
    Manager { program: "microdnf", refresh: None, install: &[&["install", "-y", "openssh-server"]] },
    Manager { program: "yum", refresh: None, install: &[&["install", "-y", "openssh-server"]] },
    Manager {
        program: "zypper",
        refresh: None,
        install: &[
            &["--non-interactive", "install", "--no-recommends", "openssh-server"],
            &["--non-interactive", "install", "--no-recommends", "openssh"],
        ],
    },
    Manager { program: "pacman", refresh: None, install: &[&["-Sy", "--noconfirm", "--needed", "openssh"]] },
];

/// Nobody is there to answer questions.
pub(super) const ENVIRONMENT: [(&str, &str); 1] = [("DEBIAN_FRONTEND", "noninteractive")];
