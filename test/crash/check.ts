import type { Expected, Told } from './table.ts'

/**
 * What must hold of one cell, whatever was done to whom. Knows nothing of fleets and faults: it is given what was told,
 * what was found, and what came of doing everything once more.
 */
export interface Evidence {
  readonly expected: Expected
  readonly mayTell: readonly Told[]
  /** Whether the fault was seen to happen, at the step. */
  readonly faultSeen: boolean
  readonly told: { readonly kind: Told; readonly transactionId: string | null; readonly code: string | null }
  /** Of a request that looked at the participant; null for any other. */
  readonly reading: Reading | null
  /** After everything was healed and resolved. */
  readonly found: Found
  /** The same, after every step was done once more. */
  readonly foundAgain: Found
  /** Each id that the request ran under or its caller was told, asked for twice. */
  readonly asked: readonly { readonly transactionId: string; readonly answers: readonly string[] }[]
  /** What the same request with the same key was told afterwards, twice. */
  readonly repeated: readonly Repeated[]
  /** Steps that did not give once more what they gave. */
  readonly refusedAgain: readonly string[]
  /** Shards whose closed timestamp did not pass the commit. */
  readonly notClosed: readonly string[]
}

export interface Found {
  /** How often the row of the request is there. */
  readonly homeRows: number
  /** Null for a transaction of one shard. */
  readonly participantRows: number | null
  readonly commits: readonly { readonly transactionId: string; readonly commitTimestamp: string }[]
  readonly records: readonly { readonly transactionId: string; readonly outcome: string }[]
  readonly branches: readonly { readonly transactionId: string; readonly prepareTimestamp: string }[]
  readonly decisions: readonly {
    readonly transactionId: string
    readonly outcome: string
    readonly commitTimestamp: string | null
  }[]
  /** What is prepared, on any shard. */
  readonly prepared: readonly string[]
}

/** Names at the participant. */
export interface Reading {
  /** Acknowledged before the request was sent. */
  readonly before: readonly string[]
  /** What its caller was told that it read; null when he was told of no commit. */
  readonly read: readonly string[] | null
  /** What is there in the end. */
  readonly after: readonly string[]
}

export interface Repeated {
  readonly transactionId: string
  readonly replayed: boolean
}

export interface CellViolation {
  readonly kind: string
  readonly explanation: string
}

export function checkCell(evidence: Evidence): CellViolation[] {
  return [
    ...checkFound(evidence.found),
    ...checkOutcome(evidence),
    ...checkTold(evidence),
    ...checkReading(evidence),
    ...checkAsked(evidence),
    ...checkRepeated(evidence),
    ...evidence.refusedAgain.map((what) => violation('twice', what)),
    ...evidence.notClosed.map((shard) => violation('closed', `${shard} does not close past the commit`)),
  ]
}

const violation = (kind: string, explanation: string): CellViolation => ({ kind, explanation })

/** Both or none, once, decided before it is settled, and nothing left. */
function checkFound(found: Found): CellViolation[] {
  const { homeRows, participantRows, commits, records, branches, decisions, prepared } = found
  const violations: CellViolation[] = []
  if (participantRows !== null && participantRows !== homeRows) {
    violations.push(violation('half', `${homeRows} at home and ${participantRows} at the participant`))
  }
  if (homeRows !== commits.length) {
    violations.push(violation('unrecorded', `${homeRows} rows and ${commits.length} commits`))
  }
  if (commits.length > 1) violations.push(violation('repeated', `${commits.length} commits of one request`))
  if (prepared.length > 0) violations.push(violation('in doubt', `${prepared.join(', ')} is still prepared`))
  for (const { transactionId, prepareTimestamp } of branches) {
    const commit = commits.find((one) => one.transactionId === transactionId)
    if (commit === undefined) violations.push(violation('half', `branch of ${transactionId} without its commit`))
    else if (BigInt(prepareTimestamp) >= BigInt(commit.commitTimestamp)) {
      violations.push(violation('order', `${transactionId} was prepared at ${prepareTimestamp}, not below its commit`))
    }
  }
  for (const { transactionId, outcome } of records) {
    const isCommitted = commits.some((one) => one.transactionId === transactionId)
    if (isCommitted !== (outcome === 'COMMITTED')) {
      violations.push(violation('record', `the record of ${transactionId} says ${outcome}`))
    }
  }
  for (const { transactionId, outcome, commitTimestamp } of decisions) {
    const commit = commits.find((one) => one.transactionId === transactionId)
    const agrees = commit === undefined ? outcome === 'ABORTED' : commit.commitTimestamp === commitTimestamp
    if (!agrees) violations.push(violation('decision', `the participant knows ${transactionId} as ${outcome}`))
  }
  return violations
}

function checkOutcome({ expected, found }: Evidence): CellViolation[] {
  if (expected === 'either') return []
  const outcome = found.commits.length > 0 ? 'committed' : 'aborted'
  return outcome === expected ? [] : [violation('outcome', `it is ${outcome}, and must be ${expected}`)]
}

function checkTold({ told, mayTell, found }: Evidence): CellViolation[] {
  const about = `${told.kind}${told.code === null ? '' : ` (${told.code})`}`
  const violations: CellViolation[] = []
  if (told.code === 'internal') violations.push(violation('defect', 'the caller was told of a defect'))
  if (!mayTell.includes(told.kind)) {
    violations.push(violation('told', `the caller was told ${about}, and may be told ${mayTell.join(', ')}`))
  }
  const isCommitted = found.commits.some(({ transactionId }) => transactionId === told.transactionId)
  if (told.kind === 'committed' && !isCommitted)
    violations.push(violation('lost', `told ${about}, and it is not there`))
  if (told.kind === 'failed' && found.commits.length > 0) {
    violations.push(violation('told', `told ${about}, and it is there`))
  }
  if (told.kind === 'unknown' && told.transactionId === null) {
    violations.push(violation('told', `told ${about} without an id to ask with`))
  }
  return violations
}

/** What a commit rests on was the newest that was acknowledged, and stays. */
function checkReading({ told, reading }: Evidence): CellViolation[] {
  if (reading === null || told.kind !== 'committed') return []
  const { before, read, after } = reading
  if (read === null) return [violation('told', 'it committed, and its caller was not told what it read')]
  const unseen = before.filter((name) => !read.includes(name))
  const gone = read.filter((name) => !after.includes(name))
  return [
    ...(unseen.length === 0 ? [] : [violation('stale', `it did not read ${unseen.join(', ')}`)]),
    ...(gone.length === 0 ? [] : [violation('vanished', `it read ${gone.join(', ')}, which is not there`)]),
  ]
}

function checkAsked({ asked, found }: Evidence): CellViolation[] {
  return asked.flatMap(({ transactionId, answers }) => {
    const isCommitted = found.commits.some((one) => one.transactionId === transactionId)
    const wrong = answers.find((answer) => answer === 'in_doubt' || (answer === 'committed') !== isCommitted)
    if (wrong !== undefined) return [violation('asked', `${transactionId} is called ${wrong}`)]
    return new Set(answers).size > 1
      ? [violation('asked', `${transactionId} is called ${answers.join(', then ')}`)]
      : []
  })
}

/** The same request again: the first outcome, or once. */
function checkRepeated({ found, foundAgain, repeated }: Evidence): CellViolation[] {
  const violations: CellViolation[] = []
  const [first] = found.commits
  if (first !== undefined && JSON.stringify(found) !== JSON.stringify(foundAgain)) {
    violations.push(violation('twice', `changed: ${JSON.stringify(found)} became ${JSON.stringify(foundAgain)}`))
  }
  violations.push(...checkFound(foundAgain))
  if (foundAgain.commits.length !== 1) {
    violations.push(violation('twice', `${foundAgain.commits.length} commits after the request was sent again`))
  }
  const stands = first?.transactionId ?? repeated[0]?.transactionId
  for (const [index, { transactionId, replayed }] of repeated.entries()) {
    const mayRun = first === undefined && index === 0
    if (transactionId !== stands || replayed === mayRun) {
      const how = replayed ? 'replayed' : 'run'
      violations.push(violation('key', `the request was ${how} as ${transactionId}, and ${stands ?? 'none'} stands`))
    }
  }
  return violations
}
