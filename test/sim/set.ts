import type { Violation } from './history.ts'
import type { Telling } from './tellings.ts'
import { checkTellings } from './tellings.ts'

/** Elements that were added to sets, each by one transaction to one or several sets, and what the sets were at the end. */
export interface SetHistory {
  readonly adds: readonly {
    readonly element: string
    readonly sets: readonly string[]
    readonly told: 'committed' | 'failed' | 'unknown'
    /** Of an unknown one, which was sent again with its key when everything was healed: what was told then. */
    readonly again?: 'committed' | 'failed' | 'unknown'
  }[]
  /** `set element`, as often as it is there. */
  readonly last: readonly string[]
  readonly tellings: readonly Telling[]
}

/**
 * What was acknowledged is there, once, everywhere; what was refused is nowhere; what is there was added. What nobody could
 * tell of is acknowledged when it is sent again: nothing is in its way any more, and its key keeps it from being done twice.
 */
export function checkSet({ adds, last, tellings }: SetHistory): Violation[] {
  const counts = new Map<string, number>()
  for (const place of last) counts.set(place, (counts.get(place) ?? 0) + 1)
  const violations: Violation[] = []
  const found = (kind: string, explanation: string) => violations.push({ kind, explanation, operations: [] })
  for (const { element, sets, told, again } of adds) {
    const present = sets.filter((set) => counts.has(`${set} ${element}`)).length
    if (present > 0 && present < sets.length) found('half', `${element} is in ${present} of ${sets.length} sets`)
    if (told === 'committed' && present === 0) found('lost', `${element} was acknowledged and is not there`)
    if (told === 'failed' && present > 0) found('aborted', `${element} was refused and is there`)
    if (again === 'committed' && present === 0) found('lost', `${element} was acknowledged when it was sent again`)
    if (again === 'failed' && present > 0)
      found('aborted', `${element} was refused when it was sent again, and is there`)
    else if (told === 'unknown' && again !== 'committed')
      found(
        'unresolved',
        `nobody could tell of ${element} when all was over: sent again it is ${again ?? 'not told of'}`,
      )
    for (const set of sets) counts.delete(`${set} ${element}`)
  }
  for (const place of counts.keys()) found('unwritten', `${place} was added by nobody`)
  for (const place of new Set(last.filter((one, at) => last.indexOf(one) !== at))) {
    found('twice', `${place} is there more than once`)
  }
  return [...violations, ...checkTellings(tellings)]
}
