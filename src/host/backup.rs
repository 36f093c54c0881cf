//! `host backup` and `host restore`: what is done with the database from outside of the Host that works with it.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::store::{self, REMEDY, Source, StoreFault};
use crate::sys::looks::Looks;
use crate::sys::{clock, file};
use crate::warning;

use super::HostFault;

/// Writes a backup of the database to `to`; the answer says what was written.
///
/// # Errors
/// One or two lines; nothing was written.
pub fn back_up(config: &Config, to: &Path, replace: bool) -> Result<Vec<String>, HostFault> {
    if let Some(own) = own_file(config, to) {
        return Err(HostFault(format!(
            "cannot write the backup {}: {} is the Host's own; name another file",
            to.display(),
            own.display()
        )));
    }
    let made = store::back_up(&config.db_file, to, replace, clock::unix_ms()).map_err(of_store)?;
    Ok(vec![format!(
        "wrote {}: {} bytes, {} of the database {}",
        to.display(),
        made.bytes,
        tasks(made.tasks),
        made.database.display()
    )])
}

/// Puts a backup in the database's place (None: a database without tasks); the answer says what was done, and what follows.
///
/// # Errors
/// One or two lines; the database is the old one, or the next start of the Host makes it the new one.
pub fn restore(config: &Config, from: Option<&Path>, is_current: bool) -> Result<Vec<String>, HostFault> {
    let here = cluster_here(config)?;
    let source = match from {
        Some(file) => Source::Backup { file, is_current },
        None => Source::Empty { cluster: here.as_ref().map(|here| here.cluster.as_str()) },
    };
    let now_ms = clock::unix_ms();
    let prepared = store::prepare(&config.db_file, source, now_ms / 1_000).map_err(of_store)?;
    if let (Some(here), Some(theirs)) = (&here, &prepared.cluster)
        && here.cluster != *theirs
    {
        return Err(HostFault(format!(
            "the backup is of cluster {theirs}, and here is cluster {}: name the right one, or set database.db_file and \
             paths.shared_dir; remove {} if that cluster is no more",
            here.cluster,
            here.told_by.display()
        )));
    }
    let (waiting, placed, all) = (prepared.waiting, prepared.placed, prepared.tasks);
    let made = prepared.made_ms.map(clock::rfc3339);
    let kept = prepared.commit().map_err(of_store)?;
    let database = config.db_file.display();
    let mut told = vec![match (from, made) {
        (Some(file), Some(made)) => {
            format!("restored {database} from {}: {} as of {made}", file.display(), tasks(all))
        }
        (Some(file), None) => {
            format!(
                "restored {database} from {}: {}, to go on as if the Host had only been stopped",
                file.display(),
                tasks(all)
            )
        }
        (None, _) => format!("{database} begins anew, without tasks"),
    }];
    told.extend(kept.map(|kept| format!("the database before is kept as {}", kept.display())));
    if from.is_some() && !is_current {
        if placed > 0 {
            told.push(format!("{} had a node: 'lost' until that tells what became of it", tasks(placed)));
        }
        if waiting > 0 {
            told.push(format!(
                "{} waited, and may have run since: 'failed' when the Host starts (--no-host-since lets them wait on)",
                tasks(waiting)
            ));
        }
    }
    if !is_current {
        told.push(
            "what nodes have that it does not know is shown by 'hakuriver client nodes', and left alone".to_owned(),
        );
    }
    Ok(told)
}

/// What of the Host's own, beside its database, a backup of that name would write over, or stand among.
fn own_file(config: &Config, to: &Path) -> Option<PathBuf> {
    let folder = to.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let to = fs::canonicalize(folder).ok()?.join(to.file_name()?);
    let own = [
        &config.paths.state_dir.join("host"),
        &config.paths.state_dir.join("runner"),
        &config.auth.token_file,
        &config.auth.node_token_file,
        &config.paths.state_dir.join("config.toml"),
    ];
    // One that is not there yet has a folder that is.
    let place = |path: &Path| Some(fs::canonicalize(path.parent()?).ok()?.join(path.file_name()?));
    own.into_iter().filter_map(|path| place(path)).find(|path| to.starts_with(path))
}

fn tasks(count: u64) -> String {
    if count == 1 { "1 task".to_owned() } else { format!("{count} tasks") }
}

fn of_store(fault: StoreFault) -> HostFault {
    HostFault(fault.to_string())
}

/// Which cluster a state directory, or a shared directory, is of.
struct Here {
    cluster: String,
    told_by: PathBuf,
}

/// In the state directory: the cluster whose database was here.
fn mark(config: &Config) -> PathBuf {
    config.paths.state_dir.join("host").join("cluster")
}

/// The cluster that was here before; None: there is no sign of any.
fn cluster_here(config: &Config) -> Result<Option<Here>, HostFault> {
    for file in [mark(config), config.paths.shared_dir.join(".hakuriver-cluster")] {
        let read = {
            let file = file.clone();
            Looks::default().at(move || fs::read_to_string(&file))
        };
        let silent = || HostFault(format!("cannot read {}: its file system does not answer", file.display()));
        match read.ok_or_else(silent)? {
            Ok(text) => {
                let cluster = text.trim().chars().take(64).collect::<String>();
                if !cluster.is_empty() {
                    return Ok(Some(Here { cluster, told_by: file }));
                }
            }
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {}
            Err(error) => return Err(HostFault(format!("cannot read {}: {error}", file.display()))),
        }
    }
    Ok(None)
}

/// Where there was a database, none is begun anew: a file system that is not mounted, or a wrong path, must not cost all that the
/// database knows.
pub(super) fn refuse_to_begin_anew(config: &Config) -> Result<(), HostFault> {
    let path = &config.db_file;
    if store::is_there(path).map_err(of_store)? {
        return Ok(());
    }
    match cluster_here(config)? {
        None => Ok(()),
        Some(here) => Err(HostFault(format!(
            "the database {} is not there, and {} tells of cluster {}: is its file system mounted, and database.db_file \
             right? (Remove that file if the cluster is no more.)\n{REMEDY}",
            path.display(),
            here.told_by.display(),
            here.cluster
        ))),
    }
}

/// From now on a database is missed where it is not there. That this cannot be written down is no reason not to serve.
pub(super) fn remember(config: &Config, cluster: &str) {
    let mark = mark(config);
    if fs::read_to_string(&mark).is_ok_and(|text| text.trim() == cluster) {
        return;
    }
    let folder = config.paths.state_dir.join("host");
    let written = file::make_dir(&folder, 0o700)
        .and_then(|()| file::write_atomic(&mark, format!("{cluster}\n").as_bytes(), 0o600));
    if let Err(fault) = written {
        warning!("if the database vanishes, the next start will not miss it: {fault}");
    }
}
