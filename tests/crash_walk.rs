//! `kill -9` at every step: before and after each durable write and each call of something outside, in the lives of a VPS and of a
//! command, on Host, Runner, the node's supervisor and the one in a container. The points are found by living undisturbed once.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, RandomState};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::crash_lives::{Life, World};

const LIVES: [Life; 5] = [Life::Vps, Life::Contained, Life::Killed, Life::Command, Life::Birth];
/// Clusters at once.
const CLUSTERS: usize = 5;
/// What takes longer is told, with its point.
const SLOW: Duration = Duration::from_secs(10);
/// Who dies.
const ROLES: [&str; 4] = ["host", "runner", "supervisor", "container"];
/// A walk with fewer deaths has lost sight of most of them.
const FEWEST: usize = 300;
/// One point in so many may be missed: what a life does depends a little on who is faster.
const REACHED: usize = 10;
/// Deaths of one name that the long walk tries.
const MOST: u32 = 12;

/// Where to die.
#[derive(Clone, Debug)]
struct Point {
    life: Life,
    role: String,
    name: String,
    count: u32,
}

/// What came of it.
enum Outcome {
    /// It died there, and all went well.
    Well,
    /// Nobody came there so often this time.
    NotReached,
    Wrong(String),
}

/// Which hits of a name are walked.
#[derive(Clone, Copy)]
enum Depth {
    Ends,
    All,
}

#[test]
fn whoever_dies_before_or_after_any_step_nothing_is_lost_and_nothing_runs_twice() {
    walk(Depth::Ends);
}

/// All of them take an hour; `HAKURIVER_WALK_MINUTES` ends it earlier, and has them walked in another order each time.
#[test]
#[ignore = "takes long: `make torture` runs it"]
fn whoever_dies_at_any_hit_of_any_step_nothing_is_lost_and_nothing_runs_twice() {
    walk(Depth::All);
}

fn walk(depth: Depth) {
    let begun = Instant::now();
    let mut points = points(depth);
    let is_narrowed = std::env::var_os("HAKURIVER_WALK").is_some();
    if !is_narrowed {
        for role in ROLES {
            assert!(points.iter().any(|point| point.role == role), "no point at which the {role} may die");
        }
        assert!(points.len() > FEWEST, "only {} points to die at: {points:?}", points.len());
    }
    let minutes = std::env::var("HAKURIVER_WALK_MINUTES").ok().map(|text| text.parse().expect("a number of minutes"));
    let end = minutes.map(|minutes: u64| begun + Duration::from_secs(60 * minutes));
    if end.is_some() {
        let random = RandomState::new();
        points.sort_by_cached_key(|point| random.hash_one(format!("{point:?}")));
    }
    let points = Mutex::new(points);
    let outcomes = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..CLUSTERS {
            scope.spawn(|| one_after_the_other(&points, end, &outcomes));
        }
    });
    let left = points.into_inner().unwrap().len();
    if left > 0 {
        eprintln!("{left} points are left for another time");
    }
    let outcomes = outcomes.into_inner().unwrap();
    print(&outcomes, begun);
    let wrong: Vec<String> = outcomes
        .iter()
        .filter_map(|(point, outcome)| match outcome {
            Outcome::Wrong(why) => Some(format!("{point:?}: {why}")),
            _ => None,
        })
        .collect();
    assert!(wrong.is_empty(), "{} deaths did harm:\n{}", wrong.len(), wrong.join("\n\n"));
    // Nobody died of these, so nothing was tried.
    let missed: Vec<&Point> =
        outcomes.iter().filter(|(_, outcome)| matches!(outcome, Outcome::NotReached)).map(|(point, _)| point).collect();
    let is_walk = !is_narrowed && outcomes.len() > FEWEST;
    assert!(
        !is_walk || missed.len() * REACHED <= outcomes.len(),
        "{} of {} points were not reached: {missed:?}",
        missed.len(),
        outcomes.len()
    );
}

/// How often each point of a life was hit, by role and name.
type Hits = BTreeMap<(String, String), u32>;

/// The points to be walked, found by living each life undisturbed.
fn points(depth: Depth) -> Vec<Point> {
    let lived: Vec<(Life, Hits)> = thread::scope(|scope| {
        let threads = LIVES.map(|life| scope.spawn(move || (life, hits_of(life))));
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let mut points = Vec::new();
    for (at, (life, hits)) in lived.iter().enumerate() {
        for (key, hits) in hits {
            let is_in = |(_, hits): &&(Life, Hits)| hits.contains_key(key);
            let (is_first, is_last) =
                (lived[..at].iter().find(is_in).is_none(), lived[at + 1..].iter().find(is_in).is_none());
            let mut counts: Vec<u32> = match depth {
                // Its first hit in the first life that has it, its last in the last.
                Depth::Ends => [is_first.then_some(1), is_last.then_some(*hits)].into_iter().flatten().collect(),
                Depth::All => (1..=MOST.min(*hits)).collect(),
            };
            counts.dedup();
            let (role, name) = key;
            points.extend(counts.into_iter().map(|count| Point {
                life: *life,
                role: role.clone(),
                name: name.clone(),
                count,
            }));
        }
    }
    // For who mends one of them: `HAKURIVER_WALK='Vps runner command:docker'`.
    let only = std::env::var("HAKURIVER_WALK").unwrap_or_default();
    points.retain(|point| format!("{:?} {} {}", point.life, point.role, point.name).contains(&only));
    // They are taken from the end: the longest lives first.
    points.reverse();
    points
}

fn hits_of(life: Life) -> Hits {
    let mut world = World::new(None).unwrap_or_else(|fault| panic!("undisturbed: {fault}"));
    if life != Life::Birth {
        // What comes once for each cluster is of its birth.
        world.live(life, None).unwrap_or_else(|fault| panic!("{life:?} undisturbed: {fault}"));
        world.plan(None);
    }
    world.live(life, None).unwrap_or_else(|fault| panic!("{life:?} undisturbed: {fault}"));
    let mut hits = Hits::new();
    for line in world.hits() {
        let (role, name) = line.split_once(' ').unwrap();
        *hits.entry((role.to_owned(), name.to_owned())).or_default() += 1;
    }
    hits
}

fn one_after_the_other(points: &Mutex<Vec<Point>>, end: Option<Instant>, outcomes: &Mutex<Vec<(Point, Outcome)>>) {
    let mut world: Option<World> = None;
    while end.is_none_or(|end| Instant::now() < end) {
        let Some(point) = points.lock().unwrap_or_else(PoisonError::into_inner).pop() else { break };
        let begun = Instant::now();
        let tried = catch_unwind(AssertUnwindSafe(|| die_at(&mut world, &point)));
        let outcome = match tried {
            Ok(Ok(true)) => Outcome::Well,
            Ok(Ok(false)) => Outcome::NotReached,
            Ok(Err(why)) => {
                // The rest is done in a cluster of its own; this one shows its logs where it fails at its end too.
                let logs = world.as_ref().map(logs).unwrap_or_default();
                let _ = catch_unwind(AssertUnwindSafe(|| drop(world.take())));
                Outcome::Wrong(format!("{why}\n{logs}"))
            }
            Err(panic) => {
                let text = panic.downcast_ref::<String>().cloned().unwrap_or_default();
                let _ = catch_unwind(AssertUnwindSafe(|| drop(world.take())));
                Outcome::Wrong(format!("a panic: {text}"))
            }
        };
        if let Outcome::Wrong(why) = &outcome {
            eprintln!("{point:?}: {why}");
        }
        if begun.elapsed() > SLOW {
            eprintln!("{point:?}: {} s", begun.elapsed().as_secs());
        }
        let mut outcomes = outcomes.lock().unwrap_or_else(PoisonError::into_inner);
        outcomes.push((point, outcome));
        if outcomes.len().is_multiple_of(25) {
            eprintln!("{} deaths", outcomes.len());
        }
    }
}

/// The answer: it has died there.
fn die_at(kept: &mut Option<World>, point: &Point) -> Result<bool, String> {
    let plan = Some((point.role.as_str(), point.count, point.name.as_str()));
    let victim = Some(point.role.as_str());
    if point.life == Life::Birth {
        let mut world = World::new(plan)?;
        world.live(point.life, victim).map_err(|why| format!("{why}\n{}", logs(&world)))?;
        return Ok(world.is_done());
    }
    let world = match kept {
        Some(world) => world,
        None => kept.insert(World::new(None)?),
    };
    world.plan(plan);
    world.live(point.life, victim)?;
    let is_done = world.is_done();
    world.plan(None);
    Ok(is_done)
}

fn logs(world: &World) -> String {
    let last = |name: &str| {
        let log = world.cluster.log(name);
        let lines: Vec<&str> = log.lines().collect();
        format!("--- {name}\n{}\n", lines[lines.len().saturating_sub(25)..].join("\n"))
    };
    last("host") + &last("runner-a")
}

/// Role, its points, deaths, and what came of them.
fn print(outcomes: &[(Point, Outcome)], begun: Instant) {
    let mut rows: BTreeMap<&str, (std::collections::BTreeSet<&str>, [usize; 3])> = BTreeMap::new();
    for (point, outcome) in outcomes {
        let (names, counts) = rows.entry(&point.role).or_default();
        names.insert(&point.name);
        counts[match outcome {
            Outcome::Well => 0,
            Outcome::NotReached => 1,
            Outcome::Wrong(_) => 2,
        }] += 1;
    }
    eprintln!("{:<12} {:>7} {:>7} {:>12} {:>6}", "role", "points", "deaths", "not reached", "harm");
    for (role, (names, [well, missed, wrong])) in rows {
        eprintln!("{role:<12} {:>7} {:>7} {missed:>12} {wrong:>6}", names.len(), well + wrong);
    }
    eprintln!("{} s", begun.elapsed().as_secs());
}
