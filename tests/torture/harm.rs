//! What a fault may cost, whom it struck, and when: it explains that, and nothing else.

/// What those that a fault strikes may lose by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cost {
    Nothing,
    /// The results of tasks in containers: these end with Docker's daemon, or are removed.
    Contained,
    /// The results of tasks without a container: these end with their supervisor.
    Supervised,
    /// Output that the Host does not have yet, and then it says so.
    Unshipped,
    /// Output for which there is no room when it is written: of that only the task itself hears.
    Unwritten,
}

#[derive(Clone, Debug)]
pub enum Struck {
    All,
    /// By its whole name.
    Node(String),
    Task(String),
}

/// What has come of a fault that was to be done.
#[derive(Clone, Debug)]
pub enum Deed {
    Done(Struck),
    /// Harm was done, but not that which the fault is named for.
    Other(Struck),
    /// There was nothing to do it to.
    Nothing,
}

impl Deed {
    pub const ALL: Self = Self::Done(Struck::All);

    pub fn struck(&self) -> Option<&Struck> {
        match self {
            Self::Done(struck) | Self::Other(struck) => Some(struck),
            Self::Nothing => None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Vps,
    Contained,
    /// Without a container.
    Null,
}

/// A task's, as far as it is known. Times are milliseconds since 1970.
#[derive(Debug)]
pub struct Life<'a> {
    pub id: &'a str,
    pub kind: Kind,
    pub node: Option<&'a str>,
    /// Before it was submitted.
    pub begun: i64,
    /// Of a VPS: it was seen to run.
    pub ran: Option<i64>,
    /// Its process has ended, and its node has had time to write that down.
    pub over: i64,
    /// The Host had all that it wrote.
    pub shipped: i64,
}

/// A fault that costs something: from before it was done until the nodes were back.
pub struct Span {
    pub name: &'static str,
    pub cost: Cost,
    pub struck: Struck,
    pub begun: i64,
    pub over: i64,
}

impl Span {
    /// A task of this life may have no result, or not its own. `could_not`: it never began, and its node says that its container, which
    /// was being started, could not run it: with its box goes what that was to run.
    pub fn explains_result(&self, life: &Life<'_>, could_not: bool) -> bool {
        let fits = match (self.cost, life.kind) {
            (Cost::Contained, Kind::Contained) | (Cost::Supervised, Kind::Null) => true,
            (Cost::Unshipped, Kind::Contained) => could_not,
            // One that runs is started again by Docker or by us; only its first start may fail with Docker.
            (Cost::Contained, Kind::Vps) => {
                matches!(self.struck, Struck::Task(_)) || life.ran.is_none_or(|ran| ran >= self.begun)
            }
            _ => false,
        };
        fits && self.strikes(life) && life.begun <= self.over && life.over >= self.begun
    }

    /// Not all that it wrote may be there. `is_told`: the Host says that something is missing.
    pub fn explains_output(&self, life: &Life<'_>, is_told: bool) -> bool {
        let until = match self.cost {
            Cost::Unshipped if is_told => life.shipped,
            Cost::Unwritten => life.over,
            _ => return false,
        };
        self.strikes(life) && life.begun <= self.over && until >= self.begun
    }

    pub fn text(&self) -> String {
        format!("'{}' struck {:?} from {} to {}", self.name, self.struck, self.begun, self.over)
    }

    fn strikes(&self, life: &Life<'_>) -> bool {
        match &self.struck {
            Struck::All => true,
            Struck::Node(name) => life.node == Some(name),
            Struck::Task(id) => life.id == id,
        }
    }
}
