//! Makes random operations on a model and a subject, and compares both after each.

use anyhow::{Context, Result};

use super::{CopiedHoles, Model, Operation, Subject, Weights};
use crate::random::Random;

/// How many operations before the failure are printed.
const PRINTED: usize = 12;

/// `steps` operations of `seed`; a failure prints the last ones.
pub fn drive(seed: u64, steps: usize, weights: &Weights, subject: &mut impl Subject) -> Result<Model> {
    let (mut random, mut model) = (Random::new(seed), Model::new());
    let mut done: Vec<Operation> = Vec::with_capacity(steps);
    for step in 0..steps {
        let operation = Operation::random(&mut random, &model, weights);
        done.push(operation.clone());
        let outcome = apply(&operation, &mut model, subject).and_then(|()| {
            let (bytes, map) = (subject.read()?, subject.map()?);
            model.ensure_equal(&bytes, &map)
        });
        outcome.with_context(|| {
            let last: Vec<_> = done.iter().rev().take(PRINTED).rev().collect();
            let last: Vec<_> = last.iter().map(|operation| format!("  {operation:?}")).collect();
            format!(
                "seed {seed}, step {step}, after these operations:\n{}\n",
                last.join("\n")
            )
        })?;
    }
    Ok(model)
}

fn apply(operation: &Operation, model: &mut Model, subject: &mut impl Subject) -> Result<()> {
    change_model(operation, model, subject.copied_holes())?;
    match *operation {
        Operation::Write { at, length, seed } => subject.write(at, &bytes(seed, length)?),
        Operation::Punch { start, length } => subject.punch(start, length),
        Operation::Zero { start, length, size } => subject.zero(start, length, size),
        Operation::Allocate { start, length, size } => subject.allocate(start, length, size),
        Operation::Resize { size } => subject.resize(size),
        Operation::Copy { from, to, length } => subject.copy(from, to, length),
        Operation::Store { at, length, seed } => subject.store(at, &bytes(seed, length)?),
        Operation::Seek { position } => subject.seek(position),
        Operation::Flush => subject.flush(),
        Operation::Reopen => subject.reopen(),
        Operation::Behind(ref change) => subject.behind(change),
        Operation::Crash => subject.crash(),
    }
}

fn change_model(operation: &Operation, model: &mut Model, holes: CopiedHoles) -> Result<()> {
    match *operation {
        Operation::Write { at, length, seed } | Operation::Store { at, length, seed } => {
            model.write(at, &bytes(seed, length)?);
        }
        Operation::Punch { start, length } => model.punch(start, length),
        Operation::Zero { start, length, size } => model.zero(start, length, size),
        Operation::Allocate { start, length, size } => model.allocate(start, length, size),
        Operation::Resize { size } => model.resize(size),
        Operation::Copy { from, to, length } => model.copy(from, to, length, holes),
        Operation::Behind(ref change) => change_model(change, model, holes)?,
        Operation::Seek { .. } | Operation::Flush | Operation::Reopen | Operation::Crash => {}
    }
    Ok(())
}

fn bytes(seed: u64, length: u64) -> Result<Vec<u8>> {
    Ok(Random::new(seed).bytes(usize::try_from(length)?))
}
