import { formatHlc } from '../hlc/hlc.ts'
import type { Hlc } from '../hlc/hlc.ts'
import { formatLsn } from '../postgres/lsn.ts'
import type { ArchiveFacts, CommitFacts, Known, ProofFacts } from './proof-facts.ts'
import type { Verdict } from './proof-link.ts'
import { broken, pending, proven, strictest } from './proof-link.ts'

/** The links that say what became of a decision afterwards: shown, kept, acted upon, rehearsed. */

type AboutCommit = (commit: CommitFacts) => Verdict

function ofCommit(commit: Known<CommitFacts | null>, judge: AboutCommit): Verdict {
  if (!commit.known) return pending(commit.why)
  return commit.value === null ? pending('nothing was committed') : judge(commit.value)
}

/** Which nodes show it? One that has closed its timestamp without showing it has another history. */
export function visibilityLink({ commit, nodes }: ProofFacts): Verdict {
  return ofCommit(commit, ({ commitTimestamp }) => {
    if (nodes.length === 0) return pending('no node was asked')
    return strictest(
      nodes.map(({ node, shard, role, seen }) => {
        const about = { node, shard, role }
        if (!seen.known) return pending(seen.why, about)
        const { visible, closedTimestamp } = seen.value
        const facts = { ...about, visible, closedTimestamp: formatHlc(closedTimestamp) }
        if (visible) return proven(`${node} shows it`, facts)
        if (closedTimestamp >= commitTimestamp)
          return broken(`${node} is past its timestamp and does not show it`, facts)
        return pending(`${node} has not applied it yet`, facts)
      }),
    )
  })
}

/** Could every shard that it touched be rebuilt with it, from what its archive holds? */
export function durabilityLink({ commit, archives }: ProofFacts): Verdict {
  return ofCommit(commit, ({ commitTimestamp, home, participants }) =>
    strictest(
      [home, ...participants].map((shard) => {
        const archive = archives.find((each) => each.shard === shard)?.archive
        if (archive === undefined) return pending(`${shard} has no archive`)
        return archive.known ? archived(shard, commitTimestamp, archive.value) : pending(archive.why)
      }),
    ),
  )
}

function archived(shard: string, commitTimestamp: Hlc, archive: ArchiveFacts): Verdict {
  const { region, redo, redoClosed, backup, wal } = archive
  const facts = {
    shard,
    region,
    commitLsn: redo === null ? null : formatLsn(redo.commitLsn),
    redoClosed: redoClosed === null ? null : formatHlc(redoClosed),
    backup: backup?.id ?? null,
    walThrough: wal === null ? null : formatLsn(wal.contiguousThrough),
  }
  if (redo === null) {
    return redoClosed !== null && redoClosed >= commitTimestamp
      ? broken(`the redo stream of ${shard} is past its timestamp and does not have it`, facts)
      : pending(`the redo stream of ${shard} has not reached it`, facts)
  }
  if (backup === null) return pending(`${shard} has no base backup from before it`, facts)
  if (wal === null) return pending(`the log of ${shard} was not audited`, facts)
  if (wal.checksumFailures > 0) return broken(`the archived log of ${shard} fails its checksums`, facts)
  if (wal.contiguousThrough < redo.endLsn) {
    return wal.gaps > 0
      ? broken(`the archived log of ${shard} has a gap before it`, facts)
      : pending(`the archived log of ${shard} ends before it`, facts)
  }
  return proven(
    `${region} holds base backup ${backup.id} of ${shard}, the log since then without a gap, and its redo`,
    facts,
  )
}

/** Was each of its effects delivered, once, and nothing that it did not cause? */
export function effectsLink({ commit, effects }: ProofFacts): Verdict {
  if (!commit.known) return pending(commit.why)
  if (!effects.known) return pending(effects.why)
  const { emitted, deliveries, receiver } = effects.value
  const twice = deliveries.filter(({ timesDelivered }) => timesDelivered > 1).map(({ eventId }) => eventId)
  const causeless = deliveries
    .filter(({ eventId, timesDelivered }) => timesDelivered > 0 && !emitted.some((event) => event.eventId === eventId))
    .map(({ eventId }) => eventId)
  const delivered = (eventId: string) => deliveries.some((each) => each.eventId === eventId && each.timesDelivered > 0)
  const waiting = emitted.filter(({ eventId }) => !delivered(eventId)).map(({ eventId }) => eventId)
  const facts = { emitted, deliveries, twice, causeless, waiting }
  if (twice.length > 0) return broken('an effect was delivered twice', facts)
  if (causeless.length > 0) return broken('an effect was delivered whose cause is not in history', facts)
  if (commit.value === null) return pending('nothing was committed', facts)
  if (waiting.length > 0) {
    return pending(receiver ? `${waiting.length} of its effects wait for delivery` : 'no receiver is configured', facts)
  }
  return proven(
    emitted.length === 0 ? 'it causes no effect outside' : `${emitted.length} effects were delivered, each once`,
    facts,
  )
}

/** Was a history that contains it rebuilt, and did the rebuilt one hold its invariants? */
export function recoveryLink({ commit, drill }: ProofFacts): Verdict {
  return ofCommit(commit, ({ commitTimestamp }) => {
    if (!drill.known) return pending(drill.why)
    if (drill.value === null) return pending('no drill has covered it yet')
    const { name, at, coveredThrough, found, invariants, ok } = drill.value
    const facts = { drill: name, at, coveredThrough: formatHlc(coveredThrough), found, invariants, ok }
    if (coveredThrough < commitTimestamp) return pending(`drill ${name} stopped before it`, facts)
    if (!found) return broken(`drill ${name} went past its timestamp and did not rebuild it`, facts)
    const violated = invariants.filter(({ violations }) => violations > 0).map((each) => each.name)
    if (violated.length > 0) return broken(`drill ${name} rebuilt it and violated ${violated.join(', ')}`, facts)
    if (!ok) return broken(`drill ${name} rebuilt it and failed`, facts)
    if (invariants.length === 0) return pending(`drill ${name} rebuilt it and checked no invariant`, facts)
    return proven(`drill ${name} rebuilt it and held ${invariants.length} invariants`, facts)
  })
}
