import type { Fleet, InvariantResult } from 'holdfast'
import type { Stage } from './stage.ts'

/** Small words of the story. */

export function money(cents: bigint | string): string {
  const value = BigInt(cents)
  const whole = (value / 100n).toString().replace(/\B(?=(\d{3})+$)/g, ',')
  return `${whole}.${(value % 100n).toString().padStart(2, '0')}`
}

export function countOf(count: number, what: string): string {
  return `${count} ${what}${count === 1 ? '' : 's'}`
}

export function listOf(names: readonly string[]): string {
  const [last, ...rest] = names.toReversed()
  if (last === undefined) return 'none'
  return rest.length === 0 ? last : `${rest.toReversed().join(', ')} and ${last}`
}

export function sameMembers(a: readonly string[], b: readonly string[]): boolean {
  return JSON.stringify([...a].toSorted()) === JSON.stringify([...b].toSorted())
}

export function managerOf(tenant: string): string {
  return `manager@${tenant}.example`
}

/** The gateway beside a tenant's home. */
export function homeGateway(stage: Pick<Stage, 'west' | 'east'>, tenant: string): Fleet {
  return tenant.endsWith('-us') ? stage.east : stage.west
}

export interface Violations {
  readonly names: readonly string[]
  readonly broken: readonly InvariantResult[]
  readonly total: number
  readonly results: readonly InvariantResult[]
}

export async function violationsOf(fleet: Fleet, environment?: string): Promise<Violations> {
  const results = await fleet.invariants({ environment })
  return {
    results,
    names: results.map(({ name }) => name),
    broken: results.filter(({ violations }) => violations > 0),
    total: results.reduce((sum, { violations }) => sum + violations, 0),
  }
}

/** Waits until something is so; false when it did not come true in time. */
export async function comesTrue(holds: () => boolean | Promise<boolean>, withinMs = 20_000): Promise<boolean> {
  const deadline = performance.now() + withinMs
  while (!(await holds())) {
    if (performance.now() > deadline) return false
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
  return true
}
