//! Names of hosts and users: a static glibc must not load the node's NSS libraries.
//!
//! `/etc/nsswitch.conf` of a node may name `sss`, `mdns`, `systemd` …, each a shared library made for the node's own
//! glibc. Loaded into a static program of another glibc it may crash it.

/// Sets `hosts` to `files dns`, and `passwd` and `group` to `files`, whatever `/etc/nsswitch.conf` says.
pub(super) fn keep_to_files_and_dns() {
    #[cfg(target_env = "gnu")]
    for (database, services) in [(c"hosts", c"files dns"), (c"passwd", c"files"), (c"group", c"files")] {
        // SAFETY: both are strings with a terminating zero that live for ever; it is called before the first thread and
        // the first look-up. A failure leaves what nsswitch.conf says, which is all that can be done.
        let _failed = unsafe { __nss_configure_lookup(database.as_ptr(), services.as_ptr()) };
    }
}

#[cfg(target_env = "gnu")]
unsafe extern "C" {
    /// glibc, nss/nsswitch.h: exported for exactly this, and declared in no header that is installed.
    fn __nss_configure_lookup(database: *const libc::c_char, services: *const libc::c_char) -> libc::c_int;
}

#[cfg(test)]
mod tests {
    #[test]
    fn localhost_is_found() {
        use std::net::ToSocketAddrs as _;
        super::keep_to_files_and_dns();
        let found = ("localhost", 1).to_socket_addrs().expect("localhost stands in /etc/hosts");
        assert!(found.into_iter().all(|address| address.ip().is_loopback()));
    }
}
