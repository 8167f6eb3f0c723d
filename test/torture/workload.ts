import type { Gateway } from '../../src/fleet/gateway.ts'
import type { Violation } from '../sim/history.ts'

/** What clients do in a cell, and what must hold of it afterwards. One is made for each cell. */
export interface Workload {
  /** Before any fault. */
  setUp(gateway: Gateway): Promise<void>
  /** One operation of one client; tells how it ended, and never rejects. */
  operate(client: number, gateway: Gateway): Promise<'ok' | 'failed' | 'unknown'>
  /** After everything is healed. */
  check(gateway: Gateway): Promise<Violation[]>
}

/** A random source with a seed: a number from 0 up to, and without, the given one. */
export type Below = (limit: number) => number
