//! Against a program that stands for `docker` (it notes its calls, and has an image once that was loaded), and a Host of the
//! test's making.

use std::fs;
use std::io::{self, Cursor, Read};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::mpsc;

use super::*;
use crate::archive::names::{file_name, manifest_name};
use crate::archive::samples::Saved;
use crate::archive::{Image, Manifest, Part};
use crate::runner::depot::{Depot, DepotFault};
use crate::runner::executor::Owner;
use crate::sys::command::Program;
use crate::sys::file::Scratch;
use crate::sys::looks::Looks;

/// `load` waits for the file `go`, keeps what it reads, and takes only what has a list of layers. `layers` is what the node
/// has; `image inspect` succeeds when `loaded` is there. `partial-broken` makes it refuse what lacks layers.
const DOCKER: &str = r#"#!/bin/sh
cd "$(dirname "$0")" || exit 9
echo "$1 $2" >> calls
fail() { echo "$1" >&2; exit 1; }
case "$1 $2 $4" in
load*)
    cat > stdin
    while [ ! -e go ]; do sleep 0.01; done
    [ ! -e broken ] || fail "Error processing tar file(exit status 1): unexpected EOF"
    [ -e down ] && { rm down; fail "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?"; }
    cp stdin loads-$(grep -c '^load' calls)
    grep -qa manifest.json stdin || fail "open /var/lib/docker/tmp/manifest.json: no such file or directory"
    [ -e partial-broken ] && [ "$(tar tf stdin | grep -c layer.tar)" -lt 3 ] && fail "layer does not exist"
    : > loaded
    echo "Loaded image: hakuriver/x:base" ;;
"image ls"*)
    if [ -e layers ]; then echo sha256:base; fi ;;
"image inspect {{json"*)
    cat layers ;;
image*)
    for image; do :; done
    [ -e loaded ] || fail "Error response from daemon: no such image: $image: No such image: $image"
    echo "$image" ;;
esac
"#;

/// What one connection to the Host gives.
#[derive(Clone, Copy, Debug)]
enum Gives {
    All,
    /// So many bytes, then an error.
    Breaks(u64),
    /// So many bytes, then an end.
    Ends(u64),
    /// All, with one bit wrong at this place of the whole.
    Damaged(usize),
    Silence,
    Gone,
    Refusal,
}

/// A Host with one environment.
#[derive(Default)]
struct FakeHost {
    state: Mutex<FakeState>,
}

#[derive(Default)]
struct FakeState {
    path: std::path::PathBuf,
    manifest: Option<Manifest>,
    /// How it behaves; at the end of the list it gives all.
    gives: Vec<Gives>,
    /// The layers left out, and the offset, of each connection.
    opened: Vec<(usize, u64)>,
    away: bool,
}

impl Depot for FakeHost {
    fn newest(&self, _env: &str) -> Result<Manifest, DepotFault> {
        let mut state = self.state.lock().expect("nobody panics");
        if std::mem::take(&mut state.away) {
            return Err(DepotFault::Unreachable("connection refused".to_owned()));
        }
        state.manifest.clone().ok_or(DepotFault::Gone)
    }

    fn open(&self, manifest: &Manifest, lowest: usize, offset: u64) -> Result<Box<dyn Read + Send>, DepotFault> {
        let mut state = self.state.lock().expect("nobody panics");
        state.opened.push((lowest, offset));
        let gives = if state.gives.is_empty() { Gives::All } else { state.gives.remove(0) };
        let mut file = fs::File::open(&state.path).expect("it is there");
        let image = Image::read(&mut file, "hakuriver/x:base").expect("it is an image");
        let part = Part::without(manifest, lowest);
        let mut all = vec![0; usize::try_from(part.length()).expect("small")];
        let mut at = 0;
        while at < all.len() {
            at += part.read_at(&file, &image, at as u64, &mut all[at..]).expect("it can be read");
        }
        let from = usize::try_from(offset).expect("small");
        Ok(match gives {
            Gives::Silence => return Err(DepotFault::Unreachable("no answer in time".to_owned())),
            Gives::Gone => return Err(DepotFault::Gone),
            Gives::Refusal => return Err(DepotFault::Refused("x-17.tar is damaged".to_owned())),
            Gives::All => Box::new(Cursor::new(all[from..].to_vec())),
            Gives::Ends(count) => Box::new(Cursor::new(all[from..].to_vec()).take(count)),
            Gives::Breaks(count) => Box::new(Cursor::new(all[from..].to_vec()).take(count).chain(Failing)),
            Gives::Damaged(place) => {
                all[place] ^= 1;
                Box::new(Cursor::new(all[from..].to_vec()))
            }
        })
    }
}

struct Failing;

impl Read for Failing {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::Error::new(io::ErrorKind::ConnectionReset, "connection reset by peer"))
    }
}

const LAYERS: [&[u8]; 3] = [&[1; 30_000], &[2; 600_000], &[3; 5_000]];

fn saved() -> Saved {
    Saved::new("hakuriver/x:base", &LAYERS)
}

struct Bench {
    scratch: Scratch,
    images: Arc<Images>,
    host: Arc<FakeHost>,
}

impl Bench {
    /// With a container directory that is this cluster's own.
    fn shared() -> Self {
        let bench = Self::new();
        fs::write(bench.path().join(".hakuriver-cluster"), "c\n").expect("it can be written");
        bench
    }

    /// With a Host that has the environment x.
    fn remote() -> Self {
        let bench = Self::new();
        let path = bench.path().join("host-x-17.tar");
        fs::write(&path, saved().tar()).expect("it can be written");
        let manifest = Manifest::describe(&path, "x", 17).expect("it is whole");
        *bench.host.state.lock().expect("nobody panics") =
            FakeState { path, manifest: Some(manifest), ..FakeState::default() };
        bench
    }

    fn new() -> Self {
        let scratch = Scratch::new();
        let script = scratch.path().join("docker");
        fs::write(&script, DOCKER).expect("it can be written");
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("it can be set");
        // Another test's child may have inherited the open file, for the moment until its exec: busy until then.
        let ready = Program::new([script.to_str().expect("a plain path"), "ready"], Duration::from_secs(20));
        while ready.run().is_err() {
            std::thread::yield_now();
        }
        let host = Arc::new(FakeHost::default());
        let images = Self::images(scratch.path(), &host);
        Self { scratch, images, host }
    }

    fn images(folder: &Path, host: &Arc<FakeHost>) -> Arc<Images> {
        let owner = Owner { cluster: "c".to_owned(), node: "n".to_owned() };
        let docker = Docker::new(folder.join("docker").to_str().expect("a plain path"), owner);
        let depot = Arc::clone(host) as Arc<dyn Depot>;
        let sources = Sources::new(folder.to_owned(), folder.to_owned(), "c".to_owned(), Looks::default(), depot);
        let images = Images::new(Arc::new(docker), sources, &folder.join("own"), Stop::new());
        Arc::new(Images { pause: Duration::ZERO, ..images })
    }

    fn path(&self) -> &Path {
        self.scratch.path()
    }

    fn make(&self, name: &str) {
        fs::write(self.path().join(name), "").expect("it can be written");
    }

    /// The node has these layers in one image, from the lowest on.
    fn has_layers(&self, count: usize) {
        let ids: Vec<String> =
            LAYERS[..count].iter().map(|layer| format!("\"{}\"", crate::archive::samples::digest(layer))).collect();
        let text = format!("null\n[\"sha256:other\"]\n[{}]\n", ids.join(","));
        fs::write(self.path().join("layers"), text).expect("it can be written");
    }

    fn gives(&self, gives: &[Gives]) {
        self.host.state.lock().expect("nobody panics").gives = gives.to_vec();
    }

    fn opened(&self) -> Vec<(usize, u64)> {
        self.host.state.lock().expect("nobody panics").opened.clone()
    }

    fn calls(&self, verb: &str) -> usize {
        let calls = fs::read_to_string(self.path().join("calls")).unwrap_or_default();
        calls.lines().filter(|call| call.starts_with(verb)).count()
    }

    /// What is on its way.
    fn parts(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path().join("own")).into_iter().flatten().filter_map(Result::ok);
        entries
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .filter(|name| name.ends_with(".part"))
            .collect()
    }

    fn told(&self) -> Vec<String> {
        let told = self.images.standing().into_iter();
        told.map(|one| format!("{} {} {}", one.name, one.version, one.state)).collect()
    }

    /// Asks in a thread; the channel tells each progress, and then the end.
    fn ask(&self, cancel: &Stop) -> mpsc::Receiver<Result<String, Result<String, ImageFault>>> {
        let (images, cancel) = (Arc::clone(&self.images), cancel.clone());
        let (send, receive) = mpsc::channel();
        std::thread::spawn(move || {
            let progress = send.clone();
            let end = images.resolve("x", &cancel, &mut |text| drop(progress.send(Ok(text.to_owned()))));
            drop(send.send(Err(end)));
        });
        receive
    }

    /// Asks, and waits for the end.
    fn get(&self) -> Result<String, ImageFault> {
        end(&self.ask(&Stop::new()))
    }

    fn fault(&self) -> String {
        match self.get() {
            Err(ImageFault::Unusable(reason)) => reason,
            other => panic!("{other:?}"),
        }
    }
}

/// The end of an answer, whatever progress came before it.
fn end(answer: &mpsc::Receiver<Result<String, Result<String, ImageFault>>>) -> Result<String, ImageFault> {
    answer.iter().find_map(Result::err).expect("it ends")
}

#[test]
fn everyone_who_waits_shares_one_load_and_who_is_called_back_leaves_it_running() {
    let bench = Bench::shared();
    fs::write(bench.path().join("x-1.tar"), saved().tar()).expect("it can be written");
    let cancel = Stop::new();
    let others = [bench.ask(&Stop::new()), bench.ask(&Stop::new())];
    let impatient = bench.ask(&cancel);
    for asked in others.iter().chain([&impatient]) {
        let first = asked.recv().expect("it waits");
        assert!(matches!(&first, Ok(text) if text.starts_with("loading image x (")), "{first:?}");
    }
    assert_eq!(bench.told(), ["x 1 loading"]);
    cancel.set();
    bench.images.nudge();
    assert_eq!(end(&impatient), Err(ImageFault::Cancelled));
    bench.make("go");
    for asked in &others {
        assert_eq!(end(asked), Ok(saved().id()));
    }
    assert_eq!((bench.calls("load"), bench.told()), (1, vec!["x 1 ready".to_owned()]));
    let before = bench.calls("image");
    assert_eq!(bench.get(), Ok(saved().id()));
    assert_eq!(bench.calls("image"), before, "what is known to be there is not asked for");
    bench.images.forget(&saved().id());
    assert!(bench.told().is_empty());
    assert_eq!(bench.get(), Ok(saved().id()));
    assert_eq!((bench.calls("load"), bench.calls("image")), (1, before + 1));
    assert_eq!(bench.opened(), [], "the Host has nothing to do with it");
}

#[test]
fn a_tarball_that_docker_does_not_take_is_named_and_tried_anew_next_time() {
    let bench = Bench::shared();
    fs::write(bench.path().join("x-1.tar"), saved().tar()).expect("it can be written");
    bench.make("go");
    bench.make("broken");
    for loads in 1..=2 {
        let reason = bench.fault();
        assert!(reason.contains("x-1.tar") && reason.contains("unexpected EOF"), "{reason}");
        assert_eq!(bench.calls("load"), loads);
    }
    assert!(bench.told().is_empty());
    fs::remove_file(bench.path().join("broken")).expect("it is there");
    assert_eq!(bench.get(), Ok(saved().id()));
}

#[test]
fn a_truncated_swapped_or_changed_tarball_is_refused_by_name_and_an_older_one_stays_out_of_it() {
    let bench = Bench::shared();
    bench.make("go");
    let write = |name: &str, bytes: &[u8]| fs::write(bench.path().join(name), bytes).expect("it can be written");
    write("x-1.tar", &saved().tar());
    let whole = saved().tar();
    write("x-2.tar", &whole[..whole.len() - 2_000]);
    assert!(bench.fault().contains("x-2.tar cannot be used: it is truncated"));
    let mut changed = whole.clone();
    let at = changed.iter().rposition(|byte| *byte == 3).expect("the last layer's");
    changed[at] = 4;
    write("x-3.tar", &changed);
    let reason = bench.fault();
    assert!(reason.contains("x-3.tar") && reason.contains("is damaged: the digest differs"), "{reason}");
    assert!(!bench.path().join("loaded").exists(), "Docker saw no list of layers");
    // Another environment's archive under this name, with the manifest of the right one beside it.
    let manifest = {
        write(&file_name("x", 4), &whole);
        Manifest::describe(&bench.path().join("x-4.tar"), "x", 4).expect("it is whole")
    };
    write(&manifest_name("x", 4), manifest.to_json().as_bytes());
    write(&file_name("x", 4), &Saved::new("hakuriver/y:base", &[b"other"]).tar());
    let reason = bench.fault();
    assert!(
        reason.contains("x-4.tar") && reason.contains("is not the one that") && reason.contains("x-4.json"),
        "{reason}"
    );
    assert_eq!(bench.calls("load"), 1, "only where the headers were right");
}

#[test]
fn without_a_tarball_the_tag_of_old_is_used_and_without_that_the_known_ones_are_named() {
    let bench = Bench::shared();
    fs::write(bench.path().join("other-1.tar"), saved().tar()).expect("it can be written");
    let reason = bench.fault();
    assert!(reason.contains("'x'") && reason.contains("there are: other"), "{reason}");
    bench.make("loaded");
    assert_eq!(bench.get(), Ok("hakuriver/x:base".to_owned()), "the program echoes the name");
    assert_eq!(bench.calls("load"), 0);
}

#[test]
fn only_the_layers_that_are_missing_travel_and_all_of_them_where_these_do_not_load() {
    for (partial_is_broken, opened, loads) in [(false, vec![(2, 0)], 1), (true, vec![(2, 0), (0, 0)], 2)] {
        let bench = Bench::remote();
        bench.make("go");
        bench.has_layers(2);
        if partial_is_broken {
            bench.make("partial-broken");
        }
        assert_eq!(bench.get(), Ok(saved().id()));
        assert_eq!((bench.opened(), bench.calls("load")), (opened, loads));
        let first = fs::read(bench.path().join("loads-1")).expect("it was kept");
        assert!((5_000..10_000).contains(&first.len()), "{} bytes", first.len());
        assert_eq!((bench.told(), bench.parts()), (vec!["x 17 ready".to_owned()], vec![]));
    }
}

#[test]
fn what_breaks_off_is_gone_on_with_and_docker_gets_it_once_and_whole() {
    let bench = Bench::remote();
    bench.make("go");
    bench.gives(&[Gives::Breaks(100_000), Gives::Silence, Gives::Ends(50_000), Gives::Ends(0), Gives::Breaks(300_000)]);
    assert_eq!(bench.get(), Ok(saved().id()));
    let offsets: Vec<u64> = bench.opened().iter().map(|(_, offset)| *offset).collect();
    assert_eq!(offsets, [0, 100_000, 100_000, 150_000, 150_000, 450_000]);
    assert_eq!(bench.calls("load"), 1);
}

#[test]
fn the_whole_way_is_told_to_those_who_wait() {
    let bench = Bench::remote();
    bench.host.state.lock().expect("nobody panics").away = true;
    bench.gives(&[Gives::Breaks(300_000)]);
    bench.make("go");
    let answer = bench.ask(&Stop::new());
    let told: Vec<String> = answer.iter().map_while(Result::ok).collect();
    let has = |text: &str| assert!(told.iter().any(|line| line.contains(text)), "{text}: {told:?}");
    has("finding image x: waiting for the Host: connection refused");
    has("fetching image x: waiting for the Host: connection reset by peer");
    has("loading image x (");
}

#[test]
fn what_comes_damaged_is_fetched_anew_once_and_never_reaches_docker() {
    let bench = Bench::remote();
    bench.make("go");
    bench.gives(&[Gives::Damaged(200_000)]);
    assert_eq!(bench.get(), Ok(saved().id()));
    assert_eq!((bench.opened(), bench.calls("load")), (vec![(0, 0), (0, 0)], 1));

    let bench = Bench::remote();
    bench.make("go");
    bench.gives(&[Gives::Damaged(200_000), Gives::Breaks(10_000), Gives::Damaged(200_000)]);
    let reason = bench.fault();
    assert!(reason.contains("x-17.tar on the Host") && reason.contains("is damaged"), "{reason}");
    assert_eq!((bench.calls("load"), bench.parts()), (0, vec![]));
    assert_eq!(bench.get(), Ok(saved().id()), "the next try succeeds");
}

#[test]
fn a_host_that_refuses_or_sends_nothing_is_an_end() {
    for (gives, expected) in
        [(vec![Gives::Refusal], "x-17.tar is damaged"), (vec![Gives::Ends(0); 6], "sends nothing of it")]
    {
        let bench = Bench::remote();
        bench.gives(&gives);
        let reason = bench.fault();
        assert!(reason.contains(expected), "{reason}");
        assert_eq!((bench.calls("load"), bench.parts()), (0, vec![]));
    }
}

#[test]
fn a_version_that_is_gone_by_now_is_looked_for_again() {
    let bench = Bench::remote();
    bench.make("go");
    bench.gives(&[Gives::Gone]);
    assert_eq!(bench.get(), Ok(saved().id()));
    assert_eq!(bench.opened().len(), 2);
}

#[test]
fn another_runner_goes_on_where_the_last_one_was_killed_and_distrusts_what_it_finds() {
    let bench = Bench::remote();
    bench.make("go");
    let cancel = Stop::new();
    bench.gives(&[Gives::Breaks(400_000), Gives::Silence]);
    let answer = bench.ask(&cancel);
    assert!(answer.iter().any(|line| line.is_ok_and(|text| text.contains("no answer in time"))));
    // Nobody waits any more, so the transfer is given up, and what came of it is kept.
    cancel.set();
    bench.images.nudge();
    assert_eq!(end(&answer), Err(ImageFault::Cancelled));
    let limit = Instant::now() + Duration::from_secs(20);
    while !bench.told().is_empty() {
        assert!(Instant::now() < limit, "{:?}", bench.told());
        std::thread::yield_now();
    }
    assert_eq!(bench.parts().len(), 1);
    let images = Bench::images(bench.path(), &bench.host);
    let id = images.resolve("x", &Stop::new(), &mut |_| {});
    assert_eq!(id, Ok(saved().id()));
    assert_eq!(bench.opened().last(), Some(&(0, 400_000)));

    // What a crash of the machine has left is not what was written.
    fs::remove_file(bench.path().join("loaded")).expect("it is there");
    let part = format!("x-17-{}-without-0.part", &saved().id()["sha256:".len()..][..16]);
    fs::write(bench.path().join("own").join(&part), vec![0; 100_000]).expect("it can be written");
    fs::write(bench.path().join("own/x-16-0123456789abcdef-without-0.part"), "old").expect("it can be written");
    let images = Bench::images(bench.path(), &bench.host);
    assert_eq!(images.resolve("x", &Stop::new(), &mut |_| {}), Ok(saved().id()));
    assert_eq!((bench.opened().last(), bench.parts()), (Some(&(0, 0)), vec![]));
}

#[test]
fn a_disk_without_room_fails_with_the_place_and_leaves_nothing() {
    let bench = Bench::remote();
    bench.make("go");
    // A folder in the place of the file: as hard to write to as a full disk.
    let part = format!("x-17-{}-without-0.part", &saved().id()["sha256:".len()..][..16]);
    let place = bench.path().join("own").join(&part);
    fs::create_dir_all(&place).expect("it can be made");
    let reason = bench.fault();
    assert!(reason.contains("this node cannot keep its") && reason.contains("/own"), "{reason}");
    assert_eq!(bench.calls("load"), 0);
    fs::remove_dir(&place).expect("it is empty");
    assert_eq!(bench.get(), Ok(saved().id()), "the next try succeeds");
}

#[test]
fn docker_that_goes_away_in_the_middle_costs_no_second_transfer() {
    let bench = Bench::remote();
    bench.make("go");
    bench.make("down");
    assert!(matches!(bench.get(), Err(ImageFault::Docker(_))));
    assert_eq!(bench.parts().len(), 1);
    assert_eq!(bench.get(), Ok(saved().id()));
    assert_eq!((bench.opened(), bench.calls("load"), bench.parts()), (vec![(0, 0)], 2, vec![]));
}

#[test]
fn a_directory_that_is_not_this_clusters_does_not_count() {
    let bench = Bench::remote();
    bench.make("go");
    fs::write(bench.path().join(".hakuriver-cluster"), "another\n").expect("it can be written");
    fs::write(bench.path().join("x-99.tar"), Saved::new("hakuriver/x:base", &[b"foreign"]).tar()).expect("it can be");
    assert_eq!(bench.get(), Ok(saved().id()));
    assert_eq!(bench.opened(), [(0, 0)]);
}

#[test]
fn a_copy_that_somebody_brought_by_hand_saves_the_way() {
    let bench = Bench::remote();
    bench.make("go");
    fs::write(bench.path().join("x-17.tar"), saved().tar()).expect("it can be written");
    assert_eq!(bench.get(), Ok(saved().id()));
    assert_eq!(bench.opened(), []);
}
