//! Against a program that stands for `docker`: it notes its calls, and has an image once that was loaded.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use super::*;
use crate::runner::executor::Owner;
use crate::sys::command::Program;
use crate::sys::file::Scratch;

const DIGEST: &str = "39c5e4afab97a4f2f0cc18a6cd5fc0b77ebcc2d75f72149d6e833adb340aa964";

/// `load` waits for the file `go`; `image inspect` succeeds when `loaded` is there.
const DOCKER: &str = r#"#!/bin/sh
cd "$(dirname "$0")" || exit 9
echo "$1" >> calls
case $1 in
load)
    cat > /dev/null
    while [ ! -e go ]; do sleep 0.01; done
    [ -e broken ] && { echo "Error processing tar file(exit status 1): unexpected EOF" >&2; exit 1; }
    : > loaded
    echo "Loaded image: hakuriver/x:base" ;;
image)
    for image; do :; done
    [ -e loaded ] || { echo "Error response from daemon: no such image: $image: No such image: $image" >&2; exit 1; }
    echo "$image" ;;
esac
"#;

struct Bench {
    scratch: Scratch,
    images: Arc<Images>,
}

impl Bench {
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
        let owner = Owner { cluster: "c".to_owned(), node: "n".to_owned() };
        let docker = Arc::new(Docker::new(script.to_str().expect("a plain path"), owner));
        let images = Arc::new(Images::new(docker, scratch.path().to_owned(), Looks::default()));
        Self { scratch, images }
    }

    fn path(&self) -> &Path {
        self.scratch.path()
    }

    fn make(&self, name: &str) {
        fs::write(self.path().join(name), "").expect("it can be written");
    }

    fn calls(&self, verb: &str) -> usize {
        let calls = fs::read_to_string(self.path().join("calls")).unwrap_or_default();
        calls.lines().filter(|call| *call == verb).count()
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
}

/// The end of an answer, whatever progress came before it.
fn end(answer: &mpsc::Receiver<Result<String, Result<String, ImageFault>>>) -> Result<String, ImageFault> {
    answer.iter().find_map(Result::err).expect("it ends")
}

#[test]
fn everyone_who_waits_shares_one_load_and_who_is_called_back_leaves_it_running() {
    let bench = Bench::new();
    crate::runner::tarball::tests::write(&bench.path().join("x-1.tar"), DIGEST);
    let cancel = Stop::new();
    let others = [bench.ask(&Stop::new()), bench.ask(&Stop::new())];
    let impatient = bench.ask(&cancel);
    for asked in others.iter().chain([&impatient]) {
        let first = asked.recv().expect("it waits");
        assert!(matches!(&first, Ok(text) if text.starts_with("loading image x (")), "{first:?}");
    }
    cancel.set();
    bench.images.nudge();
    assert_eq!(end(&impatient), Err(ImageFault::Cancelled));
    bench.make("go");
    for asked in &others {
        assert_eq!(end(asked), Ok(format!("sha256:{DIGEST}")));
    }
    assert_eq!(bench.calls("load"), 1);
    let before = bench.calls("image");
    assert_eq!(end(&bench.ask(&Stop::new())), Ok(format!("sha256:{DIGEST}")));
    assert_eq!(bench.calls("image"), before, "what is known to be there is not asked for");
    bench.images.forget(&format!("sha256:{DIGEST}"));
    assert_eq!(end(&bench.ask(&Stop::new())), Ok(format!("sha256:{DIGEST}")));
    assert_eq!((bench.calls("load"), bench.calls("image")), (1, before + 1));
}

#[test]
fn a_tarball_that_docker_does_not_take_is_named_and_tried_anew_next_time() {
    let bench = Bench::new();
    let tarball = bench.path().join("x-1.tar");
    crate::runner::tarball::tests::write(&tarball, DIGEST);
    bench.make("go");
    bench.make("broken");
    for loads in 1..=2 {
        let Err(ImageFault::Unusable(reason)) = end(&bench.ask(&Stop::new())) else { panic!("it is broken") };
        assert!(reason.contains("x-1.tar") && reason.contains("unexpected EOF"), "{reason}");
        assert_eq!(bench.calls("load"), loads);
    }
    fs::remove_file(bench.path().join("broken")).expect("it is there");
    assert_eq!(end(&bench.ask(&Stop::new())), Ok(format!("sha256:{DIGEST}")));
}

#[test]
fn without_a_tarball_the_tag_of_old_is_used_and_without_that_the_known_ones_are_named() {
    let bench = Bench::new();
    crate::runner::tarball::tests::write(&bench.path().join("other-1.tar"), DIGEST);
    let Err(ImageFault::Unusable(reason)) = end(&bench.ask(&Stop::new())) else { panic!("there is none") };
    assert!(reason.contains("'x'") && reason.contains("there are: other"), "{reason}");
    bench.make("loaded");
    assert_eq!(end(&bench.ask(&Stop::new())), Ok("hakuriver/x:base".to_owned()), "the program echoes the name");
    assert_eq!(bench.calls("load"), 0);
}
