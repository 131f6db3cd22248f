//! The search: every move from every world that is reached, breadth first, each class of worlds once; then whether each of them comes to
//! the rest that is asked for when nothing goes wrong any more.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    fmt::Write as _,
    rc::Rc,
};

use super::{
    key::key,
    world::{Operator, PARTS, Part, Rules, World},
};
use crate::fixtures::cluster::Cluster;

/// Something that a person or the world does once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Happening {
    pub name: &'static str,
    pub happens: fn(&mut World),
}

/// What is searched.
#[derive(Clone, Debug)]
pub(super) struct Instance {
    pub name: &'static str,
    pub world: World,
    pub rules: Rules,
    pub happenings: &'static [Happening],
    /// Whether this is the end that is asked for, in a world where nothing moves any more.
    pub is_asked_for: fn(&World) -> Result<(), String>,
}

/// How much was looked at.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Visited {
    pub states: usize,
    pub transitions: usize,
    /// Worlds in which nothing moves any more.
    pub ends: usize,
    /// Whether nothing was left out.
    pub complete: bool,
}

type Moves = Vec<(String, Result<World, String>)>;

/// Searches all of it, or the first so many classes of worlds. The path is told where a rule is broken.
pub(super) fn search(instance: &Instance, most: usize) -> Result<Visited, String> {
    let mut seen = HashSet::new();
    let mut paths: Vec<(usize, String)> = Vec::new();
    let mut queue = VecDeque::new();
    let mut visited = Visited {
        complete: true,
        ..Visited::default()
    };
    let mut settled = HashMap::new();
    let tell = |paths: &[(usize, String)], mut at: usize, last: &str| {
        let mut steps = vec![last.to_owned()];
        while at != 0 {
            let (before, what) = &paths[at];
            steps.push(what.clone());
            at = *before;
        }
        let mut text = String::new();
        for (at, step) in steps.iter().rev().enumerate() {
            let _ = writeln!(text, "{:>4}. {step}", at + 1);
        }
        text
    };
    seen.insert(key(&instance.world));
    paths.push((0, String::new()));
    queue.push_back((0, instance.world.clone()));
    while let Some((at, world)) = queue.pop_front() {
        visited.states += 1;
        match comes_to_rest(instance, &world, &mut settled) {
            Ok(ends) => visited.ends += usize::from(ends),
            Err(why) => return Err(format!("{}: {why}\nafter\n{}", instance.name, tell(&paths, at, "here"))),
        }
        for (what, next) in moves(instance, &world) {
            visited.transitions += 1;
            let next = match next {
                Ok(next) => next,
                Err(why) => return Err(format!("{}: {why}\n{}", instance.name, tell(&paths, at, &what))),
            };
            let class = key(&next);
            if seen.contains(&class) {
                continue;
            }
            if seen.len() >= most {
                visited.complete = false;
                continue;
            }
            seen.insert(class);
            queue.push_back((paths.len(), next));
            paths.push((at, what));
        }
    }
    Ok(visited)
}

/// Everything that can happen next.
fn moves(instance: &Instance, world: &World) -> Moves {
    let mut moves = Vec::new();
    let mut has_work = world.operators.iter().all(|operator| operator.leads.is_none());
    for at in 0..world.operators.len() {
        has_work |= of_operator(instance, world, at, &mut moves);
    }
    for (at, request) in world.orphans.iter().enumerate() {
        let mut next = world.clone();
        next.orphans.remove(at);
        let landed = next.land(&instance.rules, request);
        moves.push((
            format!("what nobody waits for any more arrives: {}", request.what.tell()),
            landed.map(|()| next),
        ));
    }
    let (mut rolled, mut accepted) = (world.clone(), world.clone());
    let (rolls, accepts) = (rolled.roll(), accepted.accept());
    let idle = !rolls && !accepts && !has_work;
    if rolls {
        moves.push(("the Deployments' controllers make a step".to_owned(), Ok(rolled)));
    }
    if accepts {
        moves.push(("the gateway accepts the routes".to_owned(), Ok(accepted)));
    }
    if idle || world.budget.slow > 0 {
        let mut later = world.clone();
        later.budget.slow -= u8::from(!idle);
        later.pass_time();
        moves.push(("ten seconds pass".to_owned(), Ok(later)));
    }
    if world.budget.happenings > 0 {
        for one in instance.happenings {
            let mut next = world.clone();
            next.budget.happenings -= 1;
            (one.happens)(&mut next);
            next.happened.push(one.name);
            moves.push((one.name.to_owned(), Ok(next)));
        }
    }
    for (_, next) in &mut moves {
        if let Ok(next) = next {
            next.forget_dead(&instance.rules);
        }
    }
    moves
}

/// What an operator can do; true where it has something under way or to write on the world as it is, so that no time passes by itself.
fn of_operator(instance: &Instance, world: &World, at: usize, moves: &mut Moves) -> bool {
    let mut has_work = false;
    let (rules, operator, budget) = (&instance.rules, &world.operators[at], world.budget);
    let name = ["A", "B"][at];
    let others_lead = world
        .operators
        .iter()
        .enumerate()
        .any(|(other, one)| other != at && one.leads.is_some());
    if let Some(request) = operator.requests.first() {
        has_work = true;
        let what = request.what.tell();
        let mut answered = world.clone();
        answered.operators[at].requests.remove(0);
        let mut arrived = answered.clone();
        let landed = arrived.land(rules, request);
        arrived.answer(at, request);
        moves.push((format!("{name}'s request arrives: {what}"), landed.map(|()| arrived)));
        if budget.lost > 0 {
            let mut lost = answered.clone();
            lost.budget.lost -= 1;
            let mut late = lost.clone();
            late.orphans.push(request.clone());
            moves.push((format!("{name}'s request is lost: {what}"), Ok(lost)));
            moves.push((format!("{name} waits no longer for: {what}"), Ok(late)));
        }
    } else if operator.leads.is_some() {
        for (behind, view) in views(world, operator) {
            let requests = world.requests(rules, &view, operator);
            if requests.is_empty() {
                continue;
            }
            has_work |= behind.is_empty();
            let mut next = world.clone();
            next.budget.stale -= u8::from(!behind.is_empty());
            let what: Vec<String> = requests.iter().map(|request| request.what.tell()).collect();
            next.operators[at].requests = requests;
            for part in PARTS.into_iter().filter(|part| !behind.contains(part)) {
                next.knows(at, part);
            }
            let seen = if behind.is_empty() {
                String::new()
            } else {
                format!(", with {behind:?} as it was")
            };
            moves.push((format!("{name} decides{seen}: {}", what.join("; ")), Ok(next)));
        }
    }
    if operator.leads.is_some() && budget.crashes > 0 {
        let mut dead = world.clone();
        dead.budget.crashes -= 1;
        dead.depose(at);
        moves.push((format!("{name} dies"), Ok(dead)));
    }
    if operator.leads.is_none() && (!others_lead || budget.elections > 0) {
        let mut elected = world.clone();
        elected.budget.elections -= u8::from(others_lead);
        elected.elect(at);
        moves.push((format!("{name} leads in term {}", elected.term), Ok(elected)));
    }
    if operator.leads.is_some_and(|term| term < world.term) && others_lead {
        let mut deposed = world.clone();
        deposed.depose(at);
        moves.push((format!("{name} learns that it leads no more"), Ok(deposed)));
    }
    has_work
}

/// What an operator can see: the world as it is, and, where that is still to go wrong, with some of its parts as they were.
fn views(world: &World, operator: &Operator) -> Vec<(Vec<Part>, Rc<Cluster>)> {
    let mut views = vec![(Vec::new(), Rc::clone(&world.cluster))];
    if world.budget.stale == 0 {
        return views;
    }
    let can_be_behind = |part: &Part| world.older[*part as usize].is_some() && !operator.knows[*part as usize];
    let behind: Vec<Part> = PARTS.into_iter().filter(can_be_behind).collect();
    let mut all: Vec<Vec<Part>> = behind.iter().map(|part| vec![*part]).collect();
    if behind.len() > 1 {
        all.push(behind);
    }
    views.extend(all.into_iter().map(|behind| {
        let view = world.view(&behind);
        (behind, view)
    }));
    views.extend(world.stuck(operator).map(|view| (vec![Part::Rollout], view)));
    views
}

/// Whether nothing moves in this world any more; an error where it never comes to the rest that is asked for, although nothing else goes
/// wrong. `settled`: the worlds of which that is known, and whether they are such ends.
fn comes_to_rest(instance: &Instance, world: &World, settled: &mut HashMap<u128, bool>) -> Result<bool, String> {
    let mut world = world.clone();
    let mut on_the_way = Vec::new();
    let mut told: Vec<String> = Vec::new();
    let mut first = None;
    loop {
        let class = key(&World {
            budget: super::world::Budget::default(),
            ..world.clone()
        });
        first = first.or(Some(class));
        if settled.contains_key(&class) {
            break;
        }
        if on_the_way.last() == Some(&class) {
            settled.insert(class, true);
            (instance.is_asked_for)(&world)
                .map_err(|why| format!("{why}\nafter these moves of a kind world:\n{}", told.join("\n")))?;
            break;
        }
        if on_the_way.contains(&class) || on_the_way.len() > 1_000 {
            return Err(format!("it never comes to rest:\n{}", told.join("\n")));
        }
        on_the_way.push(class);
        let what = go_on(&instance.rules, &mut world)
            .map_err(|why| format!("{why}\nafter these moves of a kind world:\n{}", told.join("\n")))?;
        told.push(what);
    }
    for class in &on_the_way {
        settled.entry(*class).or_insert(false);
    }
    Ok(first.is_some_and(|class| settled.get(&class) == Some(&true)))
}

/// The one next move of a kind world: what is under way arrives, one leads, controllers work, and time passes when nothing is to be done.
fn go_on(rules: &Rules, world: &mut World) -> Result<String, String> {
    let what = if let Some(at) = world
        .operators
        .iter()
        .position(|operator| !operator.requests.is_empty())
    {
        let request = world.operators[at].requests.remove(0);
        world.land(rules, &request)?;
        request.what.tell()
    } else if !world.orphans.is_empty() {
        let request = world.orphans.remove(0);
        world.land(rules, &request)?;
        format!("late: {}", request.what.tell())
    } else if world.operators.iter().all(|operator| operator.leads.is_none()) {
        world.elect(0);
        "A leads".to_owned()
    } else if let Some(at) = world
        .operators
        .iter()
        .position(|one| one.leads.is_some_and(|term| term < world.term))
        && world.operators.iter().filter(|one| one.leads.is_some()).count() > 1
    {
        world.depose(at);
        "the old leader learns that it leads no more".to_owned()
    } else if world.roll() {
        "controllers".to_owned()
    } else if world.accept() {
        "gateway".to_owned()
    } else {
        let at = world
            .operators
            .iter()
            .position(|operator| operator.leads.is_some())
            .unwrap_or(0);
        let requests = world.requests(rules, &world.cluster, &world.operators[at]);
        if requests.is_empty() {
            world.pass_time();
            "ten seconds".to_owned()
        } else {
            world.operators[at].requests = requests;
            "decided".to_owned()
        }
    };
    world.forget_dead(rules);
    Ok(what)
}
