import { HoldfastError } from '../base/errors.ts'

/** How far a read is meant to reach: only into the region of its gateway, or into others on purpose. */
export type Reach = 'local' | 'fan-out'

/** What a read says of itself, for whoever counts reads that leave their region. */
export interface Declared {
  /**
   * The screen or route that reads, as its code names it, e.g. `GET /runs/{id}`: few of them, and nothing of the data in it.
   * At most a hundred characters.
   */
  readonly route?: string | undefined
  /** Undeclared when left out: counted where it leaves its region, and no drift. */
  readonly reach?: Reach | undefined
}

/** A label of metrics and a key of a table: what an application makes of its data must not end there. */
export const routesMax = 200
const form = /^\P{C}{1,100}$/u

/** Throws `argument_invalid`. */
export function requireDeclared({ route, reach }: Declared): void {
  if (route !== undefined && !form.test(route)) {
    throw new HoldfastError('argument_invalid', 'a route has 1 to 100 characters, and none that controls', {
      hint: 'name the route as the code does, without what stands in its places: GET /runs/{id}',
    })
  }
  if (reach !== undefined && reach !== 'local' && reach !== 'fan-out') {
    throw new HoldfastError('argument_invalid', 'reach is local or fan-out', { hint: "write { reach: 'local' }" })
  }
}

/** The routes that one process has told apart; those beyond the first are `other`. A read without a route has none. */
export class RouteLabels {
  readonly #known = new Set<string>()

  labelOf(route: string | undefined): string {
    if (route === undefined || this.#known.has(route)) return route ?? ''
    if (this.#known.size >= routesMax) return 'other'
    this.#known.add(route)
    return route
  }
}
