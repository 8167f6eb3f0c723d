import { pathToFileURL } from 'node:url'
import { HoldfastError } from '../base/errors.ts'
import type { AppRoute } from './app-route.ts'
import { reservedPaths } from './app-route.ts'

/**
 * The routes of the application module that the configuration names. Throws `config_invalid` (never) when it cannot be
 * loaded, exports none, or claims a path of the API.
 */
export async function loadAppRoutes(path: string): Promise<readonly AppRoute[]> {
  let module: unknown
  try {
    module = await import(pathToFileURL(path).href)
  } catch (cause) {
    throw new HoldfastError('config_invalid', `the application ${path} cannot be loaded`, {
      hint: 'name a built JavaScript module in `app`',
      cause,
    })
  }
  return checkAppRoutes(module, path)
}

export function checkAppRoutes(module: unknown, path: string): readonly AppRoute[] {
  const routes: unknown =
    typeof module === 'object' && module !== null && 'routes' in module ? module.routes : undefined
  if (!Array.isArray(routes)) {
    throw new HoldfastError('config_invalid', `the application ${path} exports no list of routes`, {
      hint: 'export const routes: AppRoute[] = [...]',
    })
  }
  for (const [index, route] of routes.entries()) {
    if (!isRoute(route)) {
      throw new HoldfastError('config_invalid', `route ${index + 1} of ${path} has no method, path and handle`, {
        hint: "a route is { method: 'GET' | 'POST', path: '/...', handle(request) {...} }",
      })
    }
    if (reservedPaths.some((prefix) => route.path.startsWith(prefix))) {
      throw new HoldfastError('config_invalid', `route ${route.path} of ${path} belongs to Holdfast`, {
        hint: `choose a path that does not begin with ${reservedPaths.join(', ')}`,
      })
    }
  }
  return routes
}

function isRoute(value: unknown): value is AppRoute {
  if (typeof value !== 'object' || value === null) return false
  const { method, path, handle } = value as Partial<AppRoute>
  return (
    (method === 'GET' || method === 'POST') &&
    typeof path === 'string' &&
    path.startsWith('/') &&
    typeof handle === 'function'
  )
}
