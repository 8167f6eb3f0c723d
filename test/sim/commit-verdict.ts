import { present } from '../../src/base/assert.ts'
import type { Server, Shown } from './commit-server.ts'
import type { Reading, World } from './commit-world.ts'
import { home } from './commit-world.ts'

/** What the world is at the end, held against what clients were told. */
export function verdict(world: World): string[] {
  const violations = world.stuck.map((what) => `stuck: ${what}`)
  const homePrimary = present(world.current[home], 'a home')
  for (const { id, participants, readings, told } of world.clients) {
    const record = homePrimary.record(id)
    const wasCollected = homePrimary.log.some((entry) => entry.kind === 'uncollected' && entry.id === id)
    const isCommitted = homePrimary.log.some((entry) => entry.kind === 'record' && entry.id === id && entry.committed)
    const branches = participants.map((at) => present(world.current[at], 'a participant').branch(id))
    const wrong = branches.filter((branch) => (branch === 'committed') !== isCommitted)
    if (wrong.length > 0)
      violations.push(`half: ${id} is ${isCommitted ? '' : 'not '}committed at home, ${branches.join(' and ')}`)
    if (told === 'committed' && !isCommitted) violations.push(`lost: ${id} was told committed`)
    if (told === 'aborted' && isCommitted) violations.push(`untrue: ${id} was told aborted`)
    if (typeof told === 'object' && !isUsed(homePrimary, told.replayed)) {
      violations.push(`lost: ${id} was told what became of ${told.replayed}, which is not committed`)
    }
    if (record === undefined && isCommitted && !wasCollected) violations.push(`no record of ${id}`)
    violations.push(...order(world, id))
    if (isCommitted) violations.push(...readings.flatMap((reading) => judgeReading(world, id, reading)))
  }
  return [...violations, ...usedTwice(homePrimary), ...world.current.flatMap(forgottenEarly)]
}

function isUsed(homePrimary: Server, id: number): boolean {
  return homePrimary.log.some((entry) => entry.kind === 'record' && entry.id === id && entry.committed)
}

/** K8: what a key stands for is carried out once, but for a retry that was born after the key had gone. */
function usedTwice({ log }: Server): string[] {
  const violations: string[] = []
  const users = new Map<number, number>()
  let goneThrough = -1
  for (const entry of log) {
    if (entry.kind === 'keys') goneThrough = entry.through
    if (entry.kind !== 'record' || entry.key === undefined) continue
    const first = users.get(entry.key)
    if (first !== undefined && !(first <= goneThrough && entry.id > goneThrough)) {
      violations.push(`twice: ${entry.id} and ${first} were committed for one key`)
    }
    users.set(entry.key, entry.id)
  }
  return violations
}

/** K7: where a decision went, its branch was not prepared, and is not prepared afterwards. */
function forgottenEarly({ shard, log }: Server): string[] {
  const prepared = new Set<number>()
  const forgotten = new Set<number>()
  const early = new Set<number>()
  for (const entry of log) {
    if (entry.kind === 'prepare') prepared.add(entry.id)
    if (entry.kind === 'settle') prepared.delete(entry.id)
    if (entry.kind === 'forgotten') forgotten.add(entry.id)
    for (const id of forgotten) if (prepared.has(id)) early.add(id)
  }
  return [...early].map((id) => `early: the decision of ${id} went from ${shard}, where its branch is prepared`)
}

/** The stamp lies above every prepare timestamp of its branches. */
function order(world: World, id: number): string[] {
  const stamp = present(world.current[home], 'a home').record(id)
  if (stamp === undefined || stamp === 'held' || !stamp.committed) return []
  return [1, 2].flatMap((participant) =>
    present(world.current[participant], 'a participant')
      .log.filter((entry) => entry.kind === 'prepare' && entry.id === id && entry.timestamp >= stamp.timestamp)
      .map(() => `order: ${id} is stamped at or below its branch on ${participant}`),
  )
}

/** What a committed transaction read stays, is no older than what was acknowledged before, and lies below its stamp. */
function judgeReading(world: World, id: number, { shard, shown, acknowledged }: Reading): string[] {
  const server = present(world.current[shard], 'a participant')
  const stamp = present(
    present(world.current[home], 'a home').log.find((entry) => entry.kind === 'record' && entry.id === id),
    'a record',
  )
  const rows = new Set(server.log.flatMap((entry) => (entry.kind === 'row' ? [entry.id] : [])))
  const stays = (one: Shown) => (one.kind === 'row' ? rows.has(one.id) : server.branch(one.id) === 'committed')
  const missed = acknowledged.filter((row) => !shown.some((one) => one.kind === 'row' && one.id === row))
  return [
    ...shown.filter((one) => !stays(one)).map((one) => `vanished: ${id} read ${one.kind} ${one.id} at ${shard}`),
    ...missed.map((row) => `stale: ${id} did not read row ${row} at ${shard}`),
    ...shown
      .filter(({ timestamp }) => 'timestamp' in stamp && timestamp >= stamp.timestamp)
      .map((one) => `order: ${id} is stamped at or below ${one.kind} ${one.id}, which it read at ${shard}`),
  ]
}
