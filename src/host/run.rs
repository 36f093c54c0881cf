//! The wiring: opens the database, binds both ports, starts the threads, and ends them in order.

use std::fs;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use crate::config::{AuthMode, Config};
use crate::net::http::{self, Limits};
use crate::store::{Store, StoreFault};
use crate::sys::shutdown::Stop;
use crate::sys::{clock, file, process, random, thread};
use crate::{info, warning};

use super::archives::Archives;
use super::backup;
use super::directory::Directory;
use super::engine::{Engine, Settings};
use super::environments::Environments;
use super::health::History;
use super::outputs::{self, Outputs};
use super::routes::{Api, SameSite};
use super::submission::Rules;
use super::terminal::Terminals;
use super::tokens::Tokens;
use super::tunnel::{self, Tunnel};
use super::{HostFault, Ready};

/// Many times as many as this system is for.
const MOST_NODES: usize = 4_096;

/// See [`super::run`].
pub(super) fn run(config: &Config, stop: &Stop, ready: &mut dyn FnMut(&Ready)) -> Result<(), HostFault> {
    // A thousand connections and tunnels need more than the usual limit.
    if let Err(error) = process::raise_file_limit() {
        warning!("cannot raise the limit of open files: {error}");
    }
    make_dir(&config.paths.state_dir)?;
    backup::refuse_to_begin_anew(config)?;
    let of_store = |fault: StoreFault| HostFault(fault.at_start(&config.db_file).to_string());
    let store = Store::open(&config.db_file).map_err(of_store)?;
    let lost = || StoreFault::Unusable("cannot read the cluster's id: it is not there".to_owned());
    let cluster_id = store.cluster_id().and_then(|id| id.ok_or_else(lost)).map_err(of_store)?;
    let shared = Directory::shared(&config.paths.shared_dir);
    let archives = Directory::of_archives(&config.docker.container_dir);
    {
        let (config, cluster) = (config.clone(), cluster_id.clone());
        shared.at(move || prepare_shared(&config, &cluster))??;
        let folder = archives.path().to_owned();
        archives.at(move || make_dir(&folder))??;
    }
    backup::remember(config, &cluster_id);
    let tokens = Tokens::prepare(&config.auth)?;
    let address = bind_address(config);
    let api_listener = bind(address, config.network.host_port, "network.host_port")?;
    let tunnel_listener = bind(address, config.network.host_ssh_proxy_port, "network.host_ssh_proxy_port")?;
    let announced = Ready { api: local(&api_listener)?, tunnel: local(&tunnel_listener)? };

    let readers = store.readers();
    let retention = Duration::from_secs(u64::from(config.retention_days) * 86_400);
    let (tell_removed, removed) = mpsc::channel();
    let settings = Settings {
        cluster_id: cluster_id.clone(),
        ids: config.paths.state_dir.join("host").join("ids"),
        epoch: random::hex(8),
        node_timeout: config.timing.heartbeat_timeout(),
        retention,
        cleanup_interval: config.timing.cleanup_check_interval,
        most_nodes: MOST_NODES,
        removed: tell_removed,
    };
    let (engine, engine_thread) = Engine::start(store, settings).map_err(of_store)?;
    let view = engine.view.clone();
    let history = Arc::new(History::default());
    let outputs = Arc::new(Outputs::of(shared));
    let environments = Arc::new(Environments::new(config, archives.clone(), &cluster_id, stop.clone()));
    let api = Api {
        engine: engine.clone(),
        readers: readers.clone(),
        tokens: tokens.clone(),
        same_site: SameSite::new(tokens.asked_for(), own_names(config)),
        rules: Rules::of(&config.docker),
        environments: environments.clone(),
        archives: Archives::of(archives),
        history: history.clone(),
        outputs: outputs.clone(),
        terminals: Arc::new(Terminals::new(&config.docker.command, &cluster_id)),
        cluster_id,
        poll: config.timing.heartbeat_interval,
    };
    // Not among those that are waited for: it ends with the engine, whose channel it reads.
    {
        let (files, readers) = (outputs.files(), readers.clone());
        let kept_ms = u64::try_from(retention.as_millis()).unwrap_or(u64::MAX);
        let before_ms = clock::unix_ms().saturating_sub(kept_ms);
        thread::spawn("outputs", move || outputs::clean(&files, &readers, before_ms, &removed))
            .map_err(|error| HostFault(format!("cannot start a thread: {error}")))?;
    }
    // Before anybody can ask for a new one.
    environments.begin();
    let threads = [
        {
            let (view, stop) = (view.clone(), stop.clone());
            thread::spawn_vital("health", move || history.record(&view, &stop))
        },
        {
            let (tunnel, stop) = (Arc::new(Tunnel { view: view.clone(), readers, tokens }), stop.clone());
            thread::spawn_vital("tunnels", move || tunnel::serve(&tunnel_listener, &tunnel, &stop))
        },
        {
            let stop = stop.clone();
            thread::spawn_vital("http", move || http::serve(api_listener, Arc::new(api), Limits::default(), &stop))
        },
    ];
    info!("Host {} listens on {} (API) and {} (SSH)", env!("CARGO_PKG_VERSION"), announced.api, announced.tunnel);
    ready(&announced);

    while !stop.wait(Duration::MAX) {}
    info!("Host stops; tasks go on on their nodes");
    view.close();
    engine.let_go();
    for worker in threads {
        join(worker);
    }
    engine.stop();
    join(engine_thread);
    Ok(())
}

/// A vital thread that panicked has ended the process, so none is found in that state.
fn join(worker: std::thread::JoinHandle<()>) {
    let _ = worker.join();
}

/// The shared directory, with the file by which nodes know that it is really shared.
fn prepare_shared(config: &Config, cluster_id: &str) -> Result<(), HostFault> {
    let shared = &config.paths.shared_dir;
    // Our own folder is made. Anywhere else it may be a mount point that is not there now, and must not be filled below it.
    if shared.starts_with(&config.paths.state_dir) {
        make_dir(shared)?;
    } else if !shared.is_dir() {
        return Err(HostFault(format!(
            "the shared directory {} does not exist: mount it or make it, or set paths.shared_dir",
            shared.display()
        )));
    }
    let marker = shared.join(".hakuriver-cluster");
    match fs::read_to_string(&marker) {
        Ok(text) if text.trim() == cluster_id => {}
        Ok(text) => {
            return Err(HostFault(format!(
                "the shared directory {} belongs to cluster {}, and the database {} is of cluster {cluster_id}: set paths.shared_dir or database.db_file, or remove {} if that cluster is no more",
                shared.display(),
                text.trim().chars().take(64).collect::<String>(),
                config.db_file.display(),
                marker.display()
            )));
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            file::write_atomic(&marker, format!("{cluster_id}\n").as_bytes(), 0o644)
                .map_err(|error| HostFault(format!("cannot write {}: {error}", marker.display())))?;
        }
        Err(error) => return Err(HostFault(format!("cannot read {}: {error}", marker.display()))),
    }
    make_dir(&shared.join("shared_data"))
}

fn make_dir(path: &Path) -> Result<(), HostFault> {
    file::make_dir(path, 0o755)
        .map_err(|error| HostFault(format!("cannot make the directory {}: {error}", path.display())))
}

/// The address to listen on. Without tokens it is loopback, unless the configuration says that it is not to be.
fn bind_address(config: &Config) -> IpAddr {
    let (wanted, auth) = (config.network.host_bind_ip, &config.auth);
    match auth.mode {
        AuthMode::Token => wanted,
        AuthMode::None if auth.insecure_network || wanted.is_loopback() => {
            if !wanted.is_loopback() {
                warning!("auth.mode is \"none\": everyone who reaches {wanted} is root on every node");
            }
            wanted
        }
        AuthMode::None => {
            let loopback = IpAddr::from([127, 0, 0, 1]);
            warning!(
                "auth.mode is \"none\" and auth.insecure_network is not set: listening on {loopback} instead of {wanted}"
            );
            loopback
        }
    }
}

fn bind(address: IpAddr, port: u16, key: &str) -> Result<TcpListener, HostFault> {
    let address = SocketAddr::new(address, port);
    TcpListener::bind(address).map_err(|error| {
        let hint = match error.kind() {
            ErrorKind::AddrInUse => format!("is another Host running? Stop it, or set {key} to another port"),
            ErrorKind::AddrNotAvailable => "network.host_bind_ip is no address of this machine".to_owned(),
            _ => format!("see {key}"),
        };
        HostFault(format!("cannot listen on {address}: {error}; {hint}"))
    })
}

fn local(listener: &TcpListener) -> Result<SocketAddr, HostFault> {
    listener.local_addr().map_err(|error| HostFault(format!("cannot read the address of a listener: {error}")))
}

/// The names under which this machine is addressed.
fn own_names(config: &Config) -> Vec<String> {
    let machine = process::hostname(Path::new("/")).ok();
    machine.into_iter().chain([config.network.host_reachable_address.clone()]).collect()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::mpsc;

    use super::*;
    use crate::net::http_client::Client;

    struct Folder(PathBuf);

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn config() -> (Folder, Config) {
        let folder = std::env::temp_dir().join(format!("hakuriver-host-{}", random::hex(8)));
        let mut config = crate::config::defaults(&folder);
        config.network.host_port = 0;
        config.network.host_ssh_proxy_port = 0;
        config.docker.initial_base_image.clear();
        (Folder(folder), config)
    }

    /// Runs a Host until `work` is done with it.
    fn with_host(config: &Config, work: impl FnOnce(&Ready)) {
        let (stop, told) = (Stop::new(), mpsc::channel());
        std::thread::scope(|scope| {
            let (inner, tell) = (stop.clone(), told.0);
            let host = scope.spawn(move || run(config, &inner, &mut |ready| tell.send(ready.clone()).expect("told")));
            let ready = told.1.recv_timeout(Duration::from_secs(20)).expect("ready");
            work(&ready);
            stop.set();
            host.join().expect("ended").expect("a clean end");
        });
    }

    #[test]
    fn a_host_starts_from_nothing_serves_and_stops_cleanly_twice() {
        let (folder, config) = config();
        let mut clusters = Vec::new();
        for _ in 0..2 {
            with_host(&config, |ready| {
                let token = fs::read_to_string(folder.0.join("token")).expect("token");
                let client = Client::new(&format!("http://{}", ready.api), Some(token.trim()));
                let call = |path| client.call("GET", path, None, Duration::from_secs(10)).expect("answer");
                assert_eq!((call("/nodes").status, call("/api/nodes").body), (200, b"[]".to_vec()));
                clusters.push(call("/version").body);
                let fault = Store::open(&config.db_file).expect_err("in use").to_string();
                assert!(fault.contains("another Host"), "{fault}");
            });
        }
        assert_eq!(clusters[0], clusters[1], "the cluster is the same after a restart");
        for made in ["shared/shared_data", "shared/.hakuriver-cluster", "node-token", "cluster.db"] {
            assert!(folder.0.join(made).exists(), "{made}");
        }
        assert!(config.docker.container_dir.is_dir());
        // A shared directory of another cluster is not taken over.
        fs::write(folder.0.join("shared/.hakuriver-cluster"), "other\n").expect("write");
        let fault = run(&config, &Stop::new(), &mut |_| ()).expect_err("refused").0;
        assert!(fault.contains("belongs to cluster other"), "{fault}");
    }

    #[test]
    fn without_tokens_only_loopback_is_listened_on_unless_asked_for() {
        let (_folder, mut config) = config();
        let all = IpAddr::from([0, 0, 0, 0]);
        config.network.host_bind_ip = all;
        assert_eq!(bind_address(&config), all);
        config.auth.mode = AuthMode::None;
        assert!(bind_address(&config).is_loopback());
        config.auth.insecure_network = true;
        assert_eq!(bind_address(&config), all);
    }

    #[test]
    fn a_mount_point_that_is_not_there_is_not_made() {
        let (folder, mut config) = config();
        make_dir(&folder.0).expect("folder");
        config.paths.state_dir = folder.0.join("state");
        config.paths.shared_dir = folder.0.join("mnt");
        let fault = prepare_shared(&config, "cluster").expect_err("refused").0;
        assert!(fault.contains("paths.shared_dir") && !folder.0.join("mnt").exists(), "{fault}");
    }

    #[test]
    fn a_port_in_use_is_named() {
        let taken = TcpListener::bind("127.0.0.1:0").expect("bind");
        let port = taken.local_addr().expect("bound").port();
        let fault = bind(IpAddr::from([127, 0, 0, 1]), port, "network.host_port").expect_err("taken").0;
        assert!(fault.contains(&port.to_string()) && fault.contains("network.host_port"), "{fault}");
    }
}
